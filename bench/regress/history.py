"""A table's cells at each commit that left rows, and the steps between commits: what `regression` calls a change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..records.row import Row
from ..report.cells import Cell, collect
from ..report.comparability import recipe_differences
from ..spec.recipe import load_recipe
from ..spec.scale import Scale
from ..spec.table import Table
from .compare import CellChange, compare


@dataclass(frozen=True)
class Moment:
    """A commit: the table's cells with its rows alone, and how they compare with the last ones before."""

    commit: str
    finished: str  # the first of its rows; UTC, ISO 8601
    cells: tuple[Cell, ...]
    changes: dict[str, CellChange]  # by the id of each of the cell's runs

    def change(self, cell: Cell) -> CellChange | None:
        """How a cell of this moment compares with its last rows before; None for the first ones."""
        rows = (*cell.rows, *cell.unfinished)
        return next((self.changes[row.id] for row in rows if row.id in self.changes), None)


def history(table: Table, rows: Iterable[Row], scale: Scale) -> list[Moment]:
    """One moment a commit, in the order in which their first rows were finished; the first has no changes.

    Raises:
        SpecError, MethodError: the table, a recipe or a file of reported numbers is wrong.
    """
    if scale == "mini":  # those of `make guard` have fewer epochs, and would make a step where nothing changed
        wanted = load_recipe(table.recipe.mini)
        rows = [row for row in rows if row.run.scale == scale and not recipe_differences(row, wanted, table)]
    commits: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.finished):
        commits.setdefault(row.environment.commit, []).append(row)
    before: dict[str, Row] = {}
    moments = []
    for commit, found in commits.items():
        cells = collect(table, found, scale)
        own = {row.id: row for cell in cells for row in (*cell.rows, *cell.unfinished)}
        if own:
            compared = [one for one in compare([*before.values()], [*own.values()]) if one.base]
            changes = {row.id: one for one in compared for row in one.head}
            moments.append(Moment(commit, found[0].finished, tuple(cells), changes))
            before |= {row.run.id: row for row in own.values()}
    return moments
