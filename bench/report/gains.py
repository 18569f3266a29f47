"""What a cell gains over its rivals, seed by seed, and what that costs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..records.row import Row
from .verdicts import Sample


@dataclass(frozen=True)
class CellCost:
    """Medians over a cell's rows, in the units of `rows.Cost`."""

    params: float
    flops: float
    images_per_second: float
    step_seconds: float
    prepare_seconds: float
    factor: float | None  # training time over that of `none` on the same machine, the earlier phase spread over steps


def gain(own: Mapping[int, float], rivals: Mapping[int, float]) -> Sample | None:
    """Mean of the differences to a rival, both by seed and under the same data and recipe."""
    return Sample.of([value - rivals[seed] for seed, value in own.items() if seed in rivals])


def cost(rows: Sequence[Row], peers: Sequence[Row]) -> CellCost | None:
    """Medians over `rows`; `peers` are the rows of our own `none`."""
    costs = [row.cost for row in rows if row.cost]
    if not costs:
        return None

    def median(name: str) -> float:
        return float(statistics.median(getattr(cost, name) for cost in costs))

    fields = ("params", "flops", "images_per_second", "step_seconds", "prepare_seconds")
    return CellCost(**{name: median(name) for name in fields}, factor=_cost_factor(rows, peers))


def _cost_factor(rows: Sequence[Row], peers: Sequence[Row]) -> float | None:
    """Seconds a step over those of `none`, median over rows; only against `none` on the same machine.

    Captured steps are set against captured ones.
    """
    alone: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for row in peers:
        if seconds := _seconds(row):
            alone[_where(row)].append(seconds)
    medians = {where: statistics.median(seconds) for where, seconds in alone.items()}
    ratios = [seconds / medians[_where(row)] for row in rows if (seconds := _seconds(row)) and _where(row) in medians]
    return float(statistics.median(ratios)) if ratios else None


def _where(row: Row) -> tuple[str, bool]:
    return row.environment.machine, row.cost is not None and row.cost.captured


def _seconds(row: Row) -> float | None:
    """Seconds a step, the method's earlier phase spread over the run."""
    if row.cost is None or row.status != "done" or not row.history:
        return None
    return row.cost.step_seconds + row.cost.prepare_seconds / max(row.history[-1].steps, 1)


def factor_of(cost: float | None) -> float | None:
    """A measured cost factor as quarters; None below 1.25 and for a cost that is not known."""
    rounded = round(4 * cost) / 4 if cost is not None else 1.0
    return rounded if rounded >= 1.25 else None
