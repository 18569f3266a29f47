"""A table's accuracy and step time over commits, as the points of its figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..report.blocks import Block, Line, blocks
from .compare import budget
from .history import CommitResults
from .stats import Change, Word

Side = Literal["accuracy", "speed"]


@dataclass(frozen=True)
class Point:
    """One cell at one commit."""

    index: int  # of the commit
    value: float  # percent, or milliseconds a step; NaN where a run left no number
    word: Word = "unchanged"  # since the cell's last rows before
    size: str = ""  # of that change


Series = dict[str, list[Point]]  # by method
Panel = tuple[Block, Side, Series]


def panels(commits: Sequence[CommitResults], machine: str) -> list[Panel]:
    """The panels of each block that have a line over several commits, with the points of every line."""
    found: dict[tuple[str, str | None, Side], Panel] = {}
    for index, results in enumerate(commits):
        for block in blocks(results.cells):
            for line in block.lines:
                for side in ("accuracy", "speed"):
                    if point := _point(results, index, line, side, machine):
                        panel = found.setdefault((block.title, block.pairs[0].strategy, side), (block, side, {}))
                        panel[2].setdefault(line.label, []).append(point)
    return [panel for panel in found.values() if any(len(points) > 1 for points in panel[2].values())]


def _point(results: CommitResults, index: int, line: Line, side: Side, machine: str) -> Point | None:
    cell, change = line.cell, results.change(line.cell)
    if side == "accuracy":
        if cell.measured is None:
            lost = change is not None and change.accuracy.word == "regressed"
            return Point(index, math.nan, "regressed", cell.verdict.word) if lost else None
        if change is None:
            return Point(index, cell.measured.mean)
        return Point(index, cell.measured.mean, change.accuracy.word, _points(change.accuracy))
    if cell.cost is None or cell.machines != (machine,):
        return None
    size = f"×{change.speed.size:.2f}" if change and change.speed.size else ""
    return Point(index, 1e3 * cell.cost.step_seconds, change.speed.word if change else "unchanged", size)


def _points(change: Change) -> str:
    """`+1.20`; the reason where a seed broke."""
    return change.reason if change.size is None else f"{change.size:+.2f}"


def busiest_machine(commits: Sequence[CommitResults]) -> str:
    """The machine with most rows: step times are compared within one."""
    rows = [row for results in commits for cell in results.cells for row in cell.rows]
    return Counter(row.environment.machine for row in rows).most_common(1)[0][0] if rows else ""


def least_span(commits: Sequence[CommitResults]) -> float:
    """Three noise budgets, points: an axis of the metric that is shorter would show noise as changes."""
    row = next(row for results in commits for cell in results.cells for row in (*cell.rows, *cell.unfinished))
    return 3 * budget(row.run)
