"""A table's accuracy and step time over commits; changes that `compare` finds are marked and labeled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..records.row import Row
from ..records.store import write_atomically
from ..report import values
from ..report.figures import (
    BLACK,
    BLUE,
    COLORS,
    GREY,
    SMALL,
    VERMILLION,
    label_curve,
    spread_labels,
    stacked_panels,
    title_panel,
)
from ..report.own_data import collect_at
from ..report.plots import render
from ..spec.scale import Scale
from ..spec.table import Table
from ..text import counted
from .history import CommitResults, history
from .history_series import Point, busiest_machine, least_span, panels
from .stats import Word

STEPS: dict[Word, tuple[str, str]] = {"regressed": ("v", VERMILLION), "improved": ("^", BLUE)}

LINES = tuple(color for color in COLORS if color not in (BLUE, VERMILLION))  # the colors of steps are left out

LABELS = 8
"""Commits that are labeled below a panel, at most."""


def draw_history(table: Table, rows: Sequence[Row], folder: Path, scale: Scale | None = None) -> list[Path]:
    """`<folder>/<paper>-<dataset>-history.png` and `.svg`; no file where fewer than two commits have rows.

    Raises:
        SpecError, MethodError: the table, a recipe or a file of reported numbers is wrong.
        StoreError: the folder cannot be written.
    """
    chosen, _ = collect_at(table, rows, scale)
    figure = history_figure(table, history(table, rows, chosen), chosen)
    paths = [folder / f"{table.file_stem}-history.{suffix}" for suffix in ("png", "svg")] if figure else []
    for path in paths:
        assert figure is not None
        write_atomically(path, render(figure, path.suffix[1:]))
    return paths


def history_figure(table: Table, commits: Sequence[CommitResults], scale: Scale) -> Figure | None:
    """Two panels a block: the metric, and the step time on the machine with most rows."""
    if len(commits) < 2:
        return None
    machine = busiest_machine(commits)
    drawn = panels(commits, machine)
    if not drawn:
        return None
    where = ", mini scale" if scale == "mini" else ""
    heights = [max(len(series) + 2, 7) for _, _, series in drawn]
    figure, axes = stacked_panels(f"{table.title}: history over {counted(len(commits), 'commit')}{where}", heights)
    for axis, (block, side, series) in zip(axes, drawn, strict=True):
        for i, (name, points) in enumerate(series.items()):
            _draw(axis, name, points, commits, LINES[i % len(LINES)])
        _commit_axis(axis, commits)
        title_panel(axis, block)
        if side == "speed":
            axis.set_title(f"step time on {machine}", loc="left", fontsize=9.5)
            axis.set_ylabel("step (ms)")
            axis.set_ylim(bottom=0)
        else:
            axis.set_ylabel(f"{values.metric_title(table)} (%)")
            _widen(axis, commits)
    marks = [axes[0].plot([], [], marker=m, color=c, linestyle="none", label=word)[0] for word, (m, c) in STEPS.items()]
    figure.legend(handles=marks, loc="outside lower left", ncols=len(marks), frameon=False, fontsize=SMALL)
    spread_labels(figure, axes)
    return figure


def _draw(axis: Axes, name: str, points: Sequence[Point], commits: Sequence[CommitResults], color: str) -> None:
    """A method's line with its steps; grey where it has none, so that lines with steps stand out."""
    steps = [point for point in points if point.word in STEPS]
    drawn = color if steps else BLACK if name == "none" else GREY
    width = 1.8 if steps or name == "none" else 1.0
    axis.plot(
        [p.index for p in points], [p.value for p in points], color=drawn, linewidth=width, marker="o", markersize=3
    )
    last = points[0]
    for point in points:
        last = last if math.isnan(point.value) else point
        if point.word in STEPS:
            marker, face = STEPS[point.word]
            axis.plot([point.index], [last.value], marker=marker, color=face, markersize=8, linestyle="none", zorder=4)
    labels = ", ".join(f"{point.size} at {commits[point.index].commit[:7]}" for point in steps)
    label_curve(axis, last.index, last.value, f"{name}: {labels}" if labels else name, drawn)


def _widen(axis: Axes, commits: Sequence[CommitResults]) -> None:
    low, high = axis.get_ylim()
    spare = max(0.0, least_span(commits) - (high - low)) / 2
    axis.set_ylim(low - spare, high + spare)


def _commit_axis(axis: Axes, commits: Sequence[CommitResults]) -> None:
    indices = range(0, len(commits), math.ceil(len(commits) / LABELS))
    axis.set_xticks(indices, [_tick_label(commits[index]) for index in indices])
    axis.set_xlim(-0.2, len(commits) - 0.8)
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.6)


def _tick_label(results: CommitResults) -> str:
    """`3f2ad11+` above the day."""
    return f"{results.commit[:7]}{'+' if results.commit.endswith('+') else ''}\n{results.finished[:10]}"
