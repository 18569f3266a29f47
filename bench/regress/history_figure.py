"""A table's accuracy and step time over commits; steps, which the comparison calls changes, are marked and named."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..records.row import Row
from ..records.store import write_atomically
from ..report import values
from ..report.blocks import Block, Line, blocks
from ..report.figures import BLACK, BLUE, COLOURS, GREY, SMALL, VERMILLION, heading, spread_labels, stacked, tied_label
from ..report.plots import render
from ..report.terminal import collect_at
from ..spec.scale import Scale
from ..spec.table import Table
from .compare import budget
from .history import Moment, history
from .stats import Change, Word

Side = Literal["accuracy", "speed"]

STEPS: dict[Word, tuple[str, str]] = {"regressed": ("v", VERMILLION), "improved": ("^", BLUE)}

LINES = tuple(colour for colour in COLOURS if colour not in (BLUE, VERMILLION))  # which are those of steps

LABELS = 8
"""Commits that are named below a panel."""


@dataclass(frozen=True)
class Point:
    """One cell at one commit."""

    at: int  # position of the commit
    value: float  # percent, or milliseconds a step; NaN where a run left no number
    word: Word = "unchanged"  # since the cell's last rows before
    size: str = ""  # of that change


Series = dict[str, list[Point]]  # by method
Panel = tuple[Block, Side, Series]


def draw_history(table: Table, rows: Sequence[Row], folder: Path, scale: Scale | None = None) -> list[Path]:
    """`<folder>/<paper>-<dataset>-history.png` and `.svg`; nothing where no two commits have rows of the table.

    Raises:
        SpecError, MethodError: the table, a recipe or a file of reported numbers is wrong.
        StoreError: the folder cannot be written.
    """
    found, _ = collect_at(table, rows, scale)
    figure = history_figure(table, history(table, rows, found), found)
    paths = [folder / f"{table.name.replace('/', '-')}-history.{suffix}" for suffix in ("png", "svg")] if figure else []
    for path in paths:
        assert figure is not None
        write_atomically(path, render(figure, path.suffix[1:]))
    return paths


def history_figure(table: Table, moments: Sequence[Moment], scale: Scale) -> Figure | None:
    """Two panels a block: the metric, and the step time on the machine that has most of the rows."""
    if len(moments) < 2:
        return None
    machine = _machine(moments)
    panels = [panel for panel in _panels(moments, machine) if any(len(points) > 1 for points in panel[2].values())]
    if not panels:
        return None
    where = ", mini scale" if scale == "mini" else ""
    heights = [max(len(series) + 2, 7) for _, _, series in panels]
    figure, axes = stacked(f"{table.title}: history over {len(moments)} commits{where}", heights)
    for axis, (block, side, series) in zip(axes, panels, strict=True):
        for i, (name, points) in enumerate(series.items()):
            _draw(axis, name, points, moments, LINES[i % len(LINES)])
        _commits(axis, moments)
        heading(axis, block)
        if side == "speed":
            axis.set_title(f"step time on {machine}", loc="left", fontsize=9.5)
            axis.set_ylabel("step (ms)")
            axis.set_ylim(bottom=0)
        else:
            axis.set_ylabel(f"{values.metric_name(table.metric)} (%)")
            _widen(axis, moments)
    marks = [axes[0].plot([], [], marker=m, color=c, linestyle="none", label=word)[0] for word, (m, c) in STEPS.items()]
    figure.legend(handles=marks, loc="outside lower left", ncols=len(marks), frameon=False, fontsize=SMALL)
    spread_labels(figure, axes)
    return figure


def _panels(moments: Sequence[Moment], machine: str) -> list[Panel]:
    found: dict[tuple[str, Side], Panel] = {}
    for at, moment in enumerate(moments):
        for block in blocks(moment.cells):
            for line in block.lines:
                for side in ("accuracy", "speed"):
                    if point := _point(moment, at, line, side, machine):
                        panel = found.setdefault((block.shown, side), (block, side, {}))
                        panel[2].setdefault(line.label, []).append(point)
    return list(found.values())


def _point(moment: Moment, at: int, line: Line, side: Side, machine: str) -> Point | None:
    cell, change = line.cell, moment.change(line.cell)
    if side == "accuracy":
        if cell.measured is None:
            lost = change is not None and change.accuracy.word == "regressed"
            return Point(at, math.nan, "regressed", cell.verdict.word) if lost else None
        if change is None:
            return Point(at, cell.measured.mean)
        return Point(at, cell.measured.mean, change.accuracy.word, _points(change.accuracy))
    if cell.cost is None or cell.machines != (machine,):
        return None
    size = f"×{change.speed.size:.2f}" if change and change.speed.size else ""
    return Point(at, 1e3 * cell.cost.step_seconds, change.speed.word if change else "unchanged", size)


def _points(change: Change) -> str:
    """`+1.20`; for a seed that broke, what became of it."""
    return change.reason if change.size is None else f"{change.size:+.2f}"


def _machine(moments: Sequence[Moment]) -> str:
    rows = [row for moment in moments for cell in moment.cells for row in cell.rows]
    return Counter(row.environment.machine for row in rows).most_common(1)[0][0] if rows else ""


def _draw(axis: Axes, name: str, points: Sequence[Point], moments: Sequence[Moment], colour: str) -> None:
    """A line with its steps; grey where there is none, so that those with steps stand out."""
    steps = [point for point in points if point.word in STEPS]
    drawn = colour if steps else BLACK if name == "none" else GREY
    width = 1.8 if steps or name == "none" else 1.0
    axis.plot([p.at for p in points], [p.value for p in points], color=drawn, linewidth=width, marker="o", markersize=3)
    last = points[0]
    for point in points:
        last = last if math.isnan(point.value) else point
        if point.word in STEPS:
            marker, face = STEPS[point.word]
            axis.plot([point.at], [last.value], marker=marker, color=face, markersize=8, linestyle="none", zorder=4)
    said = ", ".join(f"{point.size} at {moments[point.at].commit[:7]}" for point in steps)
    tied_label(axis, last.at, last.value, f"{name}: {said}" if said else name, drawn)


def _widen(axis: Axes, moments: Sequence[Moment]) -> None:
    """Let an axis span at least three noise budgets, so that noise does not look like news."""
    row = next(row for moment in moments for cell in moment.cells for row in (*cell.rows, *cell.unfinished))
    low, high = axis.get_ylim()
    spare = max(0.0, 3 * budget(row.run) - (high - low)) / 2
    axis.set_ylim(low - spare, high + spare)


def _commits(axis: Axes, moments: Sequence[Moment]) -> None:
    named = range(0, len(moments), math.ceil(len(moments) / LABELS))
    axis.set_xticks(named, [_commit(moments[at]) for at in named])
    axis.set_xlim(-0.2, len(moments) - 0.8)
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.6)


def _commit(moment: Moment) -> str:
    """`3f2ad11+` above the day."""
    return f"{moment.commit[:7]}{'+' if moment.commit.endswith('+') else ''}\n{moment.finished[:10]}"
