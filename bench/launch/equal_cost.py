"""Students alone that train as long as a distilled one takes: what the extra time brings without any teacher.

A method whose training takes f times that of `none` is compared with `none` trained f times as long, f rounded to
quarters so that methods of similar cost share a run. Below 1.125 there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..grid.cells import CellSpec, expand_pair, runs_of
from ..grid.cohorts import cohorts
from ..grid.plan import Plan, cohort_size, seeds_of
from ..records.row import Row
from ..report.cells import Cell, collect
from ..report.gains import equal_cost_factor
from ..report.own_data import for_data
from ..spec.recipe import stretched
from ..spec.request import RunRequest
from ..spec.run import Data, Run
from ..spec.scale import Scale
from ..spec.table import Table


def equal_cost_plan(
    tables: Sequence[Table], rows: Sequence[Row], scale: Scale, data: Data, request: RunRequest
) -> Plan:
    """Runs of `none` under stretched recipes, for every cell of the tables whose cost has been measured."""
    runs: dict[str, Run] = {}
    for table in tables:
        for cell in collect(for_data(table, data), rows, scale):
            factor = equal_cost_factor(cell.cost.factor if cell.cost else None)
            if factor is None:
                continue
            for run in runs_of(_alone(cell, table, request), table, data, seeds_of(table, request)):
                longer = run.model_copy(update={"recipe": stretched(run.recipe, factor)})
                runs.setdefault(longer.id, longer)
    stage = cohorts(runs.values(), cohort_size(scale, request))
    return Plan((stage,) if stage else ())


def _alone(cell: Cell, table: Table, request: RunRequest) -> CellSpec:
    """The cell of the same pair's student without a teacher."""
    entry = next(entry for entry in table.entries(cell.pair) if entry.method == "none")
    return expand_pair(table, cell.pair, cell.scale, request.changes, entries=[entry])[0]
