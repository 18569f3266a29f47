"""References that train as long as a method takes: what the extra time brings to the student alone, and to plain KD.

A method whose training takes f times that of `none` is compared with `none` trained f times as long, and likewise with
plain `kd`, which has a cost of its own. f is rounded to quarters so that methods of similar cost share a run. Below
1.125 there is nothing to train: the plain comparison is one at equal cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..grid.cohorts import cohorts
from ..grid.plan import Plan, cohort_size, seeds_of
from ..records.row import Row
from ..report.cells import Cell, collect
from ..report.gains import equal_cost_recipe
from ..report.matching import references
from ..report.own_data import for_data
from ..spec.request import RunRequest
from ..spec.run import Data, Run
from ..spec.scale import Scale
from ..spec.table import Table
from ..text import counted


def equal_cost_plan(
    tables: Sequence[Table], rows: Sequence[Row], scale: Scale, data: Data, request: RunRequest
) -> Plan:
    """Runs of `none` and plain `kd` under stretched recipes, for every cell of the tables whose cost is measured."""
    runs: dict[str, Run] = {}
    for table in tables:
        for run in _longer(collect(for_data(table, data), rows, scale), seeds_of(table, request)):
            runs.setdefault(run.id, run)
    stage = cohorts(runs.values(), cohort_size(request))
    return Plan((stage,) if stage else ())


def _longer(cells: Sequence[Cell], seeds: Sequence[int]) -> Iterable[Run]:
    """The references of all cells as they ran, teacher included, under recipes stretched to the cells' costs."""
    specs, filled = [cell.spec for cell in cells], {id(cell.spec): cell for cell in cells}
    for cell in cells:
        over = references(cell.spec, specs)
        for name, factor in cell.cost.factors.items() if cell.cost else ():
            recipe = equal_cost_recipe(cell.rows[0].run.recipe, factor)
            reference = filled[id(over[name])] if name in over else None
            if recipe is not None and reference is not None and reference.rows:
                run = reference.rows[0].run
                yield from (run.model_copy(update={"recipe": recipe, "seed": seed}) for seed in seeds)


def describe(runs: Iterable[Run]) -> str:
    """`3 runs of none and 6 of kd`."""
    counts = Counter(run.method for run in runs)
    none, kd = (f"{counted(counts[name], 'run')} of {name}" for name in ("none", "kd"))
    return f"{none} and {kd}" if counts["kd"] else none


def without_cost(tables: Sequence[Table], rows: Sequence[Row], scale: Scale, data: Data, plan: Plan) -> list[str]:
    """Labels of the plan's methods whose cost is not measured yet in some cell."""
    planned = {run.method for run in plan.runs} - {"none"}
    labels = (
        cell.label
        for table in tables
        for cell in collect(for_data(table, data), rows, scale)
        if cell.spec.key and cell.entry.method in planned and (cell.cost is None or cell.cost.factor is None)
    )
    return list(dict.fromkeys(labels))
