"""Cells grouped as tables and plots print them.

A block is a teacher-student pair of networks that run. At mini scale several of a paper's pairs can share one; their
cells then hold the very same rows and are printed once, for all of these pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..grid.cells import canonical
from ..spec.table import Pair
from .cells import Cell


@dataclass(frozen=True)
class Line:
    """One method of a block: the cells, of different pairs, that hold the same rows."""

    label: str
    cells: tuple[Cell, ...]

    @property
    def cell(self) -> Cell:
        """The cell whose measurements are printed; the others hold the same."""
        return self.cells[0]


@dataclass(frozen=True)
class Block:
    """The pairs and methods under one heading."""

    pairs: tuple[Pair, ...]
    teacher: str | None  # networks that run; None where there are none
    student: str | None
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        """The networks that run, or the paper's where there are none."""
        pair = self.pairs[0]
        data = self.lines[0].cell.data if self.lines else {}
        variant = "".join(f", {name} {value}" for name, value in sorted(data.items()))
        return f"{self.teacher or pair.teacher} -> {self.student or pair.student}{variant}"

    @property
    def paper_pairs(self) -> list[str]:
        """The paper's pairs, where their names differ from those of the networks that run; none of added ones."""
        names = [f"{pair.teacher} -> {pair.student}" for pair in self.pairs if not pair.added]
        return [] if names == [self.title] else names

    @property
    def student_alone(self) -> Cell | None:
        """The cell of our `none`."""
        return next((line.cell for line in self.lines if line.cell.entry.method == "none"), None)

    @property
    def teacher_measured(self) -> float | None:
        """The re-measured teacher's score, percent."""
        scores = (line.cell.teacher_measured for line in self.lines)
        return next((score for score in scores if score is not None), None)


def blocks(cells: Sequence[Cell]) -> list[Block]:
    """`cells` by pair, pairs that share their mini networks together; cells left out at this scale are dropped."""
    grouped: dict[object, Block] = {}
    for cell in cells:
        if cell.entry.skipped_at(cell.scale):
            continue  # listed below the table
        shared = cell.scale == "mini" and cell.student is not None
        key = (cell.teacher, cell.student, canonical(cell.data)) if shared else id(cell.pair)
        block = grouped.get(key) or Block((), cell.teacher, cell.student, ())
        grouped[key] = _with_cell(block, cell)
    return list(grouped.values())


def with_runs(grouped: Sequence[Block]) -> list[Block]:
    """The blocks without the methods that have no finished run, and without blocks that have none at all."""
    kept = [replace(block, lines=tuple(line for line in block.lines if _has_result(line.cell))) for block in grouped]
    return [block for block in kept if block.lines]


def _has_result(cell: Cell) -> bool:
    return bool(cell.rows or cell.unfinished)


def _with_cell(block: Block, cell: Cell) -> Block:
    """The block with one more cell: on the line of the cell that runs the same for another pair, or on a new one."""
    pairs = block.pairs if any(pair is cell.pair for pair in block.pairs) else (*block.pairs, cell.pair)
    for i, line in enumerate(block.lines):
        if _identity(line.cell) == _identity(cell) and all(other.pair is not cell.pair for other in line.cells):
            joined = replace(line, cells=(*line.cells, cell))
            return replace(block, pairs=pairs, lines=(*block.lines[:i], joined, *block.lines[i + 1 :]))
    taken = {line.label for line in block.lines}
    label = f"{cell.label} ({cell.pair.teacher})" if cell.label in taken else cell.label
    return replace(block, pairs=pairs, lines=(*block.lines, Line(label, (cell,))))


def _identity(cell: Cell) -> tuple[str, str]:
    """Method and options of a cell; a skipped cell has no options and is identified by its label."""
    return cell.entry.method, cell.label if cell.options is None else canonical(cell.options)
