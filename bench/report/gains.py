"""Gains of a cell over its references, paired by seed, and what they cost."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..records.row import Row
from .verdicts import Sample


@dataclass(frozen=True)
class CellCost:
    """Medians over a cell's rows, in the units of `row.Cost`."""

    params: float
    flops: float
    images_per_second: float
    step_seconds: float
    prepare_seconds: float
    factor: float | None  # training time over that of `none` on the same machine, the earlier phase spread over steps


def gain(measured: Mapping[int, float], reference: Mapping[int, float]) -> Sample | None:
    """Differences to a reference over the seeds that both have; None where they share no seed.

    Args:
        measured: the headline metric by seed, percent.
        reference: the same of the reference, under the same data and recipe.
    """
    return Sample.of([value - reference[seed] for seed, value in measured.items() if seed in reference])


def cost(rows: Sequence[Row], alone: Sequence[Row]) -> CellCost | None:
    """Medians over `rows`; `alone` are the rows of our `none`."""
    costs = [row.cost for row in rows if row.cost]
    if not costs:
        return None

    def median(name: str) -> float:
        return float(statistics.median(getattr(cost, name) for cost in costs))

    fields = ("params", "flops", "images_per_second", "step_seconds", "prepare_seconds")
    return CellCost(**{name: median(name) for name in fields}, factor=_cost_factor(rows, alone))


def _cost_factor(rows: Sequence[Row], alone: Sequence[Row]) -> float | None:
    """Seconds a step over those of `none` on the same machine, median over rows; None where no machine is shared."""
    by_machine: dict[str, list[float]] = defaultdict(list)
    for row in alone:
        if seconds := _seconds(row):
            by_machine[row.environment.machine].append(seconds)
    medians = {machine: statistics.median(seconds) for machine, seconds in by_machine.items()}
    ratios = [
        seconds / medians[row.environment.machine]
        for row in rows
        if (seconds := _seconds(row)) and row.environment.machine in medians
    ]
    return float(statistics.median(ratios)) if ratios else None


def _seconds(row: Row) -> float | None:
    """Seconds a step, the method's earlier phase spread over all steps; None for a row without a finished step."""
    if row.cost is None or row.status != "done" or not row.history:
        return None
    return row.cost.step_seconds + row.cost.prepare_seconds / max(row.steps, 1)


def equal_cost_factor(cost: float | None) -> float | None:
    """A measured cost factor rounded to quarters; None below 1.25 and for an unknown cost."""
    rounded = round(4 * cost) / 4 if cost is not None else 1.0
    return rounded if rounded >= 1.25 else None
