"""A table's cells at each commit that has rows, and their changes from commit to commit."""

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
class CommitResults:
    """The table's cells with the rows of one commit alone, and their changes since the last rows before.

    Attributes:
        commit: as in the rows.
        finished: when the first of its rows was; UTC, ISO 8601.
        cells: of the table.
        changes: by the id of each of the cell's runs.
    """

    commit: str
    finished: str
    cells: tuple[Cell, ...]
    changes: dict[str, CellChange]

    def change(self, cell: Cell) -> CellChange | None:
        """A cell's change since its last rows before; None for its first rows."""
        rows = (*cell.rows, *cell.unfinished)
        return next((self.changes[row.id] for row in rows if row.id in self.changes), None)


def history(table: Table, rows: Iterable[Row], scale: Scale) -> list[CommitResults]:
    """The results of each commit, in the order in which their first rows were finished; the first has no changes.

    Raises:
        SpecError, MethodError: the table, a recipe or a file of reported numbers is wrong.
    """
    if scale == "mini":  # rows of a shorter recipe would make a step where nothing changed
        wanted = load_recipe(table.recipe.mini)
        rows = [row for row in rows if row.run.scale == scale and not recipe_differences(row, wanted, table)]
    commits: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.finished):
        commits.setdefault(row.environment.commit, []).append(row)
    before: dict[str, Row] = {}
    results = []
    for commit, committed in commits.items():
        cells = collect(table, committed, scale)
        used = {row.id: row for cell in cells for row in (*cell.rows, *cell.unfinished)}
        if used:
            compared = [change for change in compare([*before.values()], [*used.values()]) if change.base]
            changes = {row.id: change for change in compared for row in change.head}
            results.append(CommitResults(commit, committed[0].finished, tuple(cells), changes))
            before |= {row.run.id: row for row in used.values()}
    return results
