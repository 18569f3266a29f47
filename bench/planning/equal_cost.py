"""Students alone that train as long as a distilled one costs: what the extra time is worth without any teacher.

A method whose training takes f times that of `none` is set against `none` trained f times as long, f rounded to
quarters so that methods of like cost share a run. Below 1.125 there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import grid
from ..judging.cells import collect
from ..judging.gains import factor_of
from ..recipe import stretched
from ..rows import Row
from ..specs import Run, Table


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
