"""Cells in the order and company in which tables and plots show them.

A block is a teacher-student pair of networks that run. At mini scale several of a paper's pairs can share one; their
cells then hold the very same rows and are shown once, for all the pairs that they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..spec.table import Pair
from .cells import Cell
from .matching import options_key


@dataclass(frozen=True)
class Line:
    """One method of a block: the cells, of different pairs, that hold the same rows."""

    label: str
    cells: tuple[Cell, ...]

    @property
    def cell(self) -> Cell:
        """The one whose measurements are shown; the others hold the same."""
        return self.cells[0]

    def reported(self, pair: Pair) -> float | None:
        return next((cell.reported_value for cell in self.cells if cell.pair is pair), None)


@dataclass(frozen=True)
class Block:
    """What is shown under one heading."""

    pairs: tuple[Pair, ...]
    teacher: str | None  # networks that run; None where none stand in
    student: str | None
    lines: tuple[Line, ...]

    @property
    def shown(self) -> str:
        """The networks that run, or the paper's where none do."""
        pair = self.pairs[0]
        data = self.lines[0].cell.data if self.lines else {}
        variant = "".join(f", {name} {value}" for name, value in sorted(data.items()))
        return f"{self.teacher or pair.teacher} -> {self.student or pair.student}{variant}"

    @property
    def papers(self) -> list[str]:
        """The paper's pairs, where they bear other names than the networks that run."""
        names = [f"{pair.teacher} -> {pair.student}" for pair in self.pairs]
        return [] if names == [self.shown] else names

    @property
    def alone(self) -> Cell | None:
        """The cell of our own `none`."""
        return next((line.cell for line in self.lines if line.cell.entry.method == "none"), None)

    @property
    def teacher_measured(self) -> float | None:
        scores = (line.cell.teacher_measured for line in self.lines)
        return next((score for score in scores if score is not None), None)


def blocks(cells: Sequence[Cell]) -> list[Block]:
    """`cells` by pair, pairs that share their mini networks together."""
    found: dict[object, Block] = {}
    for cell in cells:
        if cell.entry.skipped_at(cell.scale):
            continue  # said below the table
        shared = cell.scale == "mini" and cell.student is not None
        key = (cell.teacher, cell.student, options_key(cell.data)) if shared else id(cell.pair)
        block = found.get(key) or Block((), cell.teacher, cell.student, ())
        found[key] = _with(block, cell)
    return list(found.values())


def _with(block: Block, cell: Cell) -> Block:
    pairs = block.pairs if any(pair is cell.pair for pair in block.pairs) else (*block.pairs, cell.pair)
    for i, line in enumerate(block.lines):
        if _identity(line.cell) == _identity(cell) and all(other.pair is not cell.pair for other in line.cells):
            joined = replace(line, cells=(*line.cells, cell))
            return replace(block, pairs=pairs, lines=(*block.lines[:i], joined, *block.lines[i + 1 :]))
    taken = {line.label for line in block.lines}
    label = f"{cell.label} ({cell.pair.teacher})" if cell.label in taken else cell.label
    return replace(block, pairs=pairs, lines=(*block.lines, Line(label, (cell,))))


def _identity(cell: Cell) -> tuple[str, str]:
    """What a cell runs, its networks aside; one that is skipped has no options and is known by its name."""
    return cell.entry.method, cell.label if cell.options is None else options_key(cell.options)
