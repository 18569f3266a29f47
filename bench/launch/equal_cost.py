"""Students alone that train as long as a distilled one costs: what the extra time is worth without any teacher.

A method whose training takes f times that of `none` is set against `none` trained f times as long, f rounded to
quarters so that methods of like cost share a run. Below 1.125 there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..grid import plan as grid
from ..records.row import Row
from ..report.cells import collect
from ..report.gains import factor_of
from ..spec.recipe import stretched
from ..spec.run import Run
from ..spec.table import Table


def plan(tables: Sequence[Table], rows: Sequence[Row], choice: grid.Choice) -> grid.Plan:
    """Runs of `none` under stretched recipes, for every cell of the tables whose cost has been measured."""
    runs: dict[str, Run] = {}
    for table in tables:
        for cell in collect(table, rows, choice.scale):
            factor = factor_of(cell.cost.factor if cell.cost else None)
            if factor is None:
                continue
            alone = next(entry for entry in table.entries(cell.pair) if entry.method == "none")
            for run in grid.runs_of(table, cell.pair, alone, choice):
                longer = run.model_copy(update={"recipe": stretched(run.recipe, factor)})
                runs.setdefault(longer.id, longer)
    stage = grid.cohorts(runs.values(), choice.cohort)
    return grid.Plan((stage,) if stage else (), ())
