"""Plans for tests: scale, data and overrides in one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kdbench.grid.cells import expand_pair
from kdbench.grid.cells import runs_of as runs_of_cell
from kdbench.grid.choose import choose
from kdbench.grid.pairs import networks_at
from kdbench.grid.plan import COHORT, Plan, make_plan, seeds_of
from kdbench.spec.choice import MethodChoice
from kdbench.spec.recipe import Recipe
from kdbench.spec.request import RunRequest
from kdbench.spec.run import Data, Run
from kdbench.spec.scale import Scale
from kdbench.spec.table import MethodEntry, Pair, Table


@dataclass(frozen=True)
class Choice:
    """What a plan is made for."""

    scale: Scale
    data: Data
    seeds: tuple[int, ...] | None = None
    methods: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    teacher_file: str | None = None
    cohort: int = COHORT

    @property
    def request(self) -> RunRequest:
        return RunRequest(seeds=self.seeds, changes=self.changes, cohort=self.cohort)


def plan(tables: Sequence[Table], choice: Choice) -> Plan:
    teachers = {networks_at(pair, choice.scale)[0] for table in tables for pair in table.pairs}
    files = dict.fromkeys(teachers, choice.teacher_file) if choice.teacher_file else {}
    tables = choose(tables, [MethodChoice(name) for name in choice.methods])
    return make_plan(tables, choice.scale, choice.data, choice.request, files)


def runs_of(table: Table, pair: Pair, entry: MethodEntry, choice: Choice) -> list[Run]:
    """The runs of one cell, one a seed."""
    (cell,) = expand_pair(table, pair, choice.scale, choice.changes, entries=[entry])
    return runs_of_cell(cell, table, choice.data, seeds_of(table, choice.request), choice.teacher_file)


def recipes_of(table: Table, pair: Pair, scale: Scale = "full") -> tuple[Recipe, Recipe]:
    """The students' recipe of a pair's first method, and its teacher's."""
    cell = expand_pair(table, pair, scale, {})[0]
    return cell.recipe, cell.teacher_recipe
