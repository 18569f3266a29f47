"""The loss terms of a table's runs over epochs, beside their metric."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ..spec.scale import Scale
from ..spec.table import Table
from . import values
from .blocks import Block, Line
from .cells import Cell
from .figures import DASHES, SMALL, TITLE, WIDTH, curve, epoch_ticks, method_order, method_style

COLUMNS = 2
HEIGHT = 2.1  # of a panel, inches
ENTRY = 0.175  # of a line of a legend, inches
MAGNITUDES = 30
"""Largest value over smallest from which an axis is logarithmic."""

Curve = dict[int, float]
"""Values by epoch."""


@dataclass(frozen=True)
class Terms:
    """The panels of a block: the metric, terms of the task by name, and those that methods add.

    Attributes:
        metric: curves by line.
        task: by the term's name, curves by line: terms that the student alone has or, without it, all lines have.
        added: line, name and curve of all other terms.
    """

    block: Block
    metric: list[tuple[Line, Curve]]
    task: dict[str, list[tuple[Line, Curve]]]
    added: list[tuple[Line, str, Curve]]

    @property
    def rows(self) -> list[float]:
        """Heights of the rows of panels, inches."""
        rows = [HEIGHT] * math.ceil((1 + len(self.task)) / COLUMNS)
        return [*rows, max(HEIGHT, ENTRY * len(self.added) + 0.5)] if self.added else rows


def losses_figure(table: Table, blocks: Sequence[Block], scale: Scale) -> Figure | None:
    """Weighted loss terms, mean over each epoch's steps and over seeds: methods by color, terms by panel or dash."""
    drawn = [terms for block in blocks if (terms := _terms(block))]
    if not drawn:
        return None
    where = ", mini scale" if scale == "mini" else ""
    several = any(len(line.cell.rows) > 1 for terms in drawn for line, _ in terms.metric)
    title = f"{table.title}: weighted loss terms over epochs, {'mean over seeds' if several else 'one seed'}{where}"
    heights = [height for terms in drawn for height in terms.rows]
    lines = [line for terms in drawn for line in terms.block.lines if line.cell.rows]
    order = method_order(lines)
    figure = Figure(
        figsize=(WIDTH, sum(heights) + 0.9 + ENTRY * math.ceil((len(order) + 1) / 4)),
        layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06),
    )
    figure.suptitle(textwrap.fill(title, TITLE), x=0.01, ha="left", fontsize=11, fontweight="bold")
    grid = GridSpec(len(heights), COLUMNS, figure, height_ratios=heights)
    row = 0
    for terms in drawn:
        _draw_block(figure, grid, row, terms, order, f"{values.metric_title(table)} (%)")
        row += len(terms.rows)
    handles = {
        line.label: figure.axes[0].plot([], [], label=line.label, **method_style(line, order))[0] for line in lines
    }
    figure.legend(handles=list(handles.values()), loc="outside lower left", ncols=4, frameon=False, fontsize=SMALL)
    return figure


def term_curves(cell: Cell) -> dict[str, dict[int, float]]:
    """Mean over a cell's seeds of each weighted loss term, by name and epoch."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in cell.rows:
        for epoch in row.history:
            for name, value in epoch.losses.items():
                found[name][epoch.epoch].append(value)
    return {name: {at: statistics.fmean(each) for at, each in sorted(by.items())} for name, by in found.items()}


def is_logarithmic(curves: Sequence[Curve]) -> bool:
    """Whether curves differ by orders of magnitude, all of them above zero."""
    points = [value for each in curves for value in each.values()]
    return min(points) > 0 and max(points) / min(points) > MAGNITUDES


def _terms(block: Block) -> Terms | None:
    found = [(line, curves) for line in block.lines if (curves := term_curves(line.cell))]
    if not found:
        return None
    alone = next((curves for line, curves in found if line.cell.entry.method == "none"), None)
    shared = [name for name in found[0][1] if all(name in curves for _, curves in found)]
    names = list(alone) if alone is not None else shared
    task = {name: [(line, curves[name]) for line, curves in found if name in curves] for name in names}
    added = [(line, name, each) for line, curves in found for name, each in curves.items() if name not in names]
    return Terms(block, [(line, curve(line.cell)) for line, _ in found], task, added)


def _draw_block(figure: Figure, grid: GridSpec, row: int, terms: Terms, order: Sequence[str], metric: str) -> None:
    panels = [(metric, terms.metric), *terms.task.items()]
    for i, (name, curves) in enumerate(panels):
        axis = figure.add_subplot(grid[row + i // COLUMNS, i % COLUMNS])
        for line, points in curves:
            axis.plot(list(points), list(points.values()), **method_style(line, order))
        heading = terms.block.title.replace("->", "→") if i == 0 else ""
        _finish(axis, f"{heading}\n{name}".strip(), [points for _, points in curves], log=name != metric)
    if terms.added:
        axis = figure.add_subplot(grid[row + len(terms.rows) - 1, 0])
        dashes: dict[str, int] = defaultdict(int)
        for line, name, points in terms.added:
            style = method_style(line, order) | {"linestyle": DASHES[dashes[line.label] % len(DASHES)]}
            dashes[line.label] += 1
            label = name if name == line.label else f"{line.label}: {name}"
            axis.plot(list(points), list(points.values()), label=label, **style)
        _finish(axis, "terms that methods add", [points for *_, points in terms.added], log=True)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.05, 1.0), "borderaxespad": 0}
        axis.legend(**place, frameon=False, fontsize=SMALL).set_in_layout(False)  # in the free cell beside


def _finish(axis: Axes, title: str, curves: Sequence[Curve], log: bool) -> None:
    options: dict[str, Any] = {"loc": "left", "fontsize": 9}
    axis.set_title(title, **options)
    if log and is_logarithmic(curves):
        axis.set_yscale("log")
    epoch_ticks(axis, [epoch for each in curves for epoch in each])
    axis.set_xlabel("epoch", fontsize=SMALL)
    axis.tick_params(labelsize=SMALL, which="both")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axis.margins(x=0.02)
