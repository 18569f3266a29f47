"""Confusion matrices of a table's classifiers: our `none` beside the best method of each pair."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from ..records.class_scores import ClassScores, read_class_scores
from ..records.row import Row
from ..spec.table import Table
from ..text import printable, shortened
from . import values
from .blocks import Block, Line
from .figures import SMALL, TITLE, WIDTH

MOST_CLASSES = 100
NUMBERED = 12
"""Classes up to which every cell has its number."""

NAMED = 40
"""Classes up to which every row has its name."""

SIDE = 4.0  # of a panel, inches


def confusion_figure(table: Table, blocks: Sequence[Block], results: Path) -> tuple[Figure | None, list[str]]:
    """`none` and the best method of each pair, of the first seed; None where no run has confusions that can be drawn.

    Returns:
        The figure, and messages about files that are not used.
    """
    drawn: list[tuple[Block, list[tuple[Line, ClassScores]]]] = []
    messages: list[str] = []
    for block in blocks:
        panels = []
        for line in _none_and_best(block):
            found = read_class_scores(results / line.cell.rows[0].id, line.cell.rows[0])
            if isinstance(found, ClassScores):
                panels.append((line, found))
            elif found is not None:
                messages.append(f"{table.name}: {found.path} is not used: {found.reason}")
        panels = [(line, scores) for line, scores in panels if 1 < len(scores.classes) <= MOST_CLASSES]
        if panels:
            drawn.append((block, panels))
    return (_figure(table, drawn) if drawn else None), messages


def confusion_matrix(scores: ClassScores) -> NDArray[np.float64]:
    """Percent of each true class [K] that is predicted as each class, [K, K]; NaN in rows of classes without images."""
    count = len(scores.classes)
    matrix = np.zeros((count, count))
    for true, predicted, times in scores.confusions:
        matrix[true, predicted] = times
    images = np.array(scores.counts, dtype=float)
    images[images == 0] = np.nan
    matrix *= 100 / images[:, None]
    matrix[np.diag_indices(count)] = [np.nan if score is None else score for score in scores.scores]
    return matrix


def _none_and_best(block: Block) -> list[Line]:
    def score(line: Line) -> float:
        row: Row = line.cell.rows[0]
        return row.metrics.last[line.cell.metric] if row.metrics else 0.0

    lines = [line for line in block.lines if line.cell.rows]
    alone = [line for line in lines if line.cell.entry.method == "none"][:1]
    best = sorted((line for line in lines if line.cell.entry.method != "none"), key=lambda line: -score(line))[:1]
    return alone + best


def _figure(table: Table, drawn: Sequence[tuple[Block, list[tuple[Line, ClassScores]]]]) -> Figure:
    figure = Figure(figsize=(WIDTH, SIDE * len(drawn) + 0.5), layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06))
    title = f"{table.title}: confusion of the student alone and of the best method, first seed, % of a true class"
    figure.suptitle(textwrap.fill(title, TITLE), x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes = figure.subplots(len(drawn), 2, squeeze=False)
    for line, (block, panels) in zip(axes, drawn, strict=True):
        for axis in line[len(panels) :]:
            axis.set_axis_off()
        for i, (axis, (method, scores)) in enumerate(zip(line[: len(panels)], panels, strict=True)):
            heading = block.title.replace("->", "→") if i == 0 else ""
            row = method.cell.rows[0]
            score = row.metrics.last[method.cell.metric] if row.metrics else 0.0
            axis.set_title(
                f"{heading}\n{method.label}, {values.metric_title(table)} {score:.1f} %", loc="left", fontsize=9
            )
            _matrix(axis, scores)
    return figure


def _matrix(axis: Axes, scores: ClassScores) -> None:
    matrix, count = confusion_matrix(scores), len(scores.classes)
    axis.imshow(matrix, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")  # small shares are seen
    axis.set_xlabel("predicted class", fontsize=SMALL)
    axis.set_ylabel("true class", fontsize=SMALL)
    step = 1 if count <= NAMED else 10
    names = [printable(shortened(name, 16)) for name in scores.classes]
    size = SMALL if count <= NUMBERED else 5
    axis.set_yticks(range(0, count, step), names[::step], fontsize=size)
    axis.set_xticks(range(0, count, step), names[::step], fontsize=size, rotation=90 if max(map(len, names)) > 2 else 0)
    if count > NUMBERED:
        return
    for (true, predicted), share in np.ndenumerate(matrix):
        if share >= 0.5:
            color = "white" if share > 30 else "black"
            axis.text(predicted, true, f"{share:.0f}", ha="center", va="center", fontsize=6.5, color=color)
