"""Which rows belong to which cell of a table.

A row belongs to a cell when its `CellKey` is the cell's: scale, networks, method, resolved options and the data's
variant. Rows under several recipes or data sets are kept in groups, never mixed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..grid.cells import CellKey, CellSpec
from ..records.row import Row
from ..records.stale import has_old_teacher, is_stale
from ..spec.recipe import Recipe
from ..spec.run import Run
from .gains import is_longer

Conditions = tuple[int, tuple[str, str, int, int, int], Recipe]
"""What rows of one group share: version of the spec, data set, recipe."""


class RowIndex:
    """The rows of a table's cells, by cell and by the conditions they ran under; built in linear time."""

    def __init__(self, rows: Iterable[Row], cells: Sequence[CellSpec]) -> None:
        keys = {cell.key for cell in cells if cell.key}
        coarse = {key[:4] for key in keys}  # options are turned into JSON only where all else matches
        self._groups: dict[CellKey, dict[Conditions, list[Row]]] = defaultdict(lambda: defaultdict(list))
        self._weights: dict[str, str] = {}
        for row in rows:
            run = row.run
            if row.student is not None:
                self._weights[row.id] = row.student.sha256
            if (run.scale, run.teacher_network, run.student, run.method) in coarse and (key := CellKey.of(run)) in keys:
                self._groups[key][_conditions(run, run.recipe)].append(row)

    def groups(self, cell: CellSpec, other_recipes: Sequence[Recipe] = ()) -> list[list[Row]]:
        """A cell's rows, one list for each set of conditions; those under `other_recipes` are other cells'."""
        groups = self._groups.get(cell.key, {}) if cell.key else {}
        return [rows for rows in groups.values() if rows[0].run.recipe not in other_recipes]

    def has_old_teacher(self, row: Row) -> bool:
        """Whether a row's teacher has been trained again since."""
        return has_old_teacher(row, self._weights)

    def is_stale(self, row: Row) -> bool:
        """Whether `kdbench run` would do a row's run again: its method's code has changed, or its teacher."""
        return is_stale(row) or self.has_old_teacher(row)

    def under(self, recipe: Recipe, cell: CellSpec, run: Run) -> list[Row]:
        """A cell's rows under `recipe` and otherwise the conditions of `run`."""
        return self._groups.get(cell.key, {}).get(_conditions(run, recipe), []) if cell.key else []


def references(cell: CellSpec, cells: Sequence[CellSpec]) -> dict[str, CellSpec]:
    """The cells of the same pair that gains are over: "none", "kd", and "base" (the entry that `gain_over` names).

    Of several entries of `kd` it is the table's first, else the one that was added without options.
    """
    pair = [other for other in cells if other.pair is cell.pair and other.key]
    candidates = {"base": [other for other in pair if other.entry.display_name == cell.entry.gain_over]}
    if cell.entry.method != "none":
        same_recipe = [other for other in pair if other.entry.shares_recipe(cell.entry)]
        for name in ("none", "kd"):
            candidates[name] = sorted((other for other in same_recipe if other.entry.method == name), key=_is_variant)
    return {name: chosen[0] for name, chosen in candidates.items() if chosen and chosen[0] is not cell}


def _is_variant(cell: CellSpec) -> tuple[bool, bool]:
    return cell.entry.added, cell.entry.display_name != cell.entry.method


def other_recipes(cell: CellSpec, cells: Sequence[CellSpec]) -> tuple[Recipe, ...]:
    """Recipes under which other entries of the pair run the very same: their rows are not this cell's."""
    same = [other.recipe for other in cells if other.pair is cell.pair and other.key and other.key == cell.key]
    return tuple(recipe for recipe in same if recipe != cell.recipe)


def longer_recipes(
    cell: CellSpec, groups: Sequence[list[Row]], cells: Sequence[CellSpec], index: RowIndex
) -> set[Recipe]:
    """Recipes of a cell's groups under which `none` or `kd` was trained for another method's cost.

    They are another group's, stretched, and neither the table's nor any that a method ran under.
    """
    recipes = {rows[0].run.recipe for rows in groups}
    if len(recipes) < 2 or cell.entry.method not in ("none", "kd"):
        return set()
    longer = {recipe for recipe in recipes if any(is_longer(recipe, other) for other in recipes)}
    return longer - {cell.recipe} - _base_recipes(cell, cells, index)


def _base_recipes(cell: CellSpec, cells: Sequence[CellSpec], index: RowIndex) -> set[Recipe]:
    """Recipes of the methods of a cell's pair that are never trained for another's cost.

    Those are all but `none` and plain `kd`; without any row of them, `kd`, which then is not trained longer either.
    """
    recipes: dict[bool, set[Recipe]] = {True: set(), False: set()}
    for other in cells:
        if other.pair is cell.pair and other.key and other.entry.method != "none":
            plain = other.entry.method == "kd" and "kd" not in references(other, cells)
            recipes[plain] |= {rows[0].run.recipe for rows in index.groups(other)}
    return recipes[False] or recipes[True]


def _conditions(run: Run, recipe: Recipe) -> Conditions:
    data = run.data
    sizes = (data.name, data.fingerprint, data.train_images, data.val_images, data.classes)
    return run.version, sizes, recipe
