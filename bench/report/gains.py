"""Gains of a cell over its references, paired by seed, and what they cost."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..records.row import Row
from ..spec.recipe import Recipe, stretched
from .verdicts import Sample


@dataclass(frozen=True)
class CellCost:
    """Medians over a cell's rows, in the units of `row.Cost`."""

    params: float
    flops: float
    images_per_second: float
    step_seconds: float
    prepare_seconds: float
    data_wait: float | None  # share of the time in training steps; None where no row has it
    factor: float | None  # training time over that of `none` on the same machine, the earlier phase spread over steps
    factor_kd: float | None = None  # likewise over that of plain KD

    @property
    def factors(self) -> dict[str, float | None]:
        """By the reference that `--equal-cost` trains longer."""
        return {"none": self.factor, "kd": self.factor_kd}


def gain(measured: Mapping[int, float], reference: Mapping[int, float]) -> Sample | None:
    """Differences to a reference over the seeds that both have; None where they share no seed.

    Args:
        measured: the headline metric by seed, percent.
        reference: the same of the reference, under the same data and recipe.
    """
    return Sample.of([value - reference[seed] for seed, value in measured.items() if seed in reference])


def cost(rows: Sequence[Row], alone: Sequence[Row], kd: Sequence[Row] = ()) -> CellCost | None:
    """Medians over `rows`; `alone` are the rows of our `none`, `kd` those of our plain KD."""
    costs = [row.cost for row in rows if row.cost]
    if not costs:
        return None

    def median(name: str) -> float:
        return float(statistics.median(getattr(cost, name) for cost in costs))

    fields = ("params", "flops", "images_per_second", "step_seconds", "prepare_seconds")
    medians = {name: median(name) for name in fields}
    waits = [cost.data_wait for cost in costs if cost.data_wait is not None]
    wait = statistics.median(waits) if waits else None
    return CellCost(**medians, data_wait=wait, factor=_cost_factor(rows, alone), factor_kd=_cost_factor(rows, kd))


def _cost_factor(rows: Sequence[Row], reference: Sequence[Row]) -> float | None:
    """Seconds a step over the reference's on the same machine, median over rows; None where no machine is shared."""
    by_machine: dict[str, list[float]] = defaultdict(list)
    for row in reference:
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


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points, of a cost and a gain, no other beats: none costs at most as much and gains at least as much."""
    most, front = -math.inf, set()
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if gain > most:
            most = gain
            front.add((cost, gain))
    return [point in front for point in points]


def equal_cost_factor(cost: float | None) -> float | None:
    """How many times as long a reference trains for a method of this cost: in quarters, at least 1; None if unknown."""
    return None if cost is None else max(1.0, round(4 * cost) / 4)


def equal_cost_recipe(recipe: Recipe, cost: float | None) -> Recipe | None:
    """The recipe that makes a reference train as long as a method.

    Args:
        recipe: of both.
        cost: the method's training time over the reference's.

    Returns:
        None for an unknown cost, for a method that takes as long as it is, and where so few epochs cannot be stretched.
    """
    longer = stretched(recipe, equal_cost_factor(cost) or 1.0)
    return None if longer == recipe else longer


def is_longer(recipe: Recipe, base: Recipe) -> bool:
    """Whether a recipe is another one, stretched by quarters."""
    lengths = {"epochs": base.epochs, "milestones": base.milestones, "max_steps": base.max_steps}
    if recipe.epochs < base.epochs or recipe == base or recipe.model_copy(update=lengths) != base:
        return False
    most = 4 * (recipe.epochs + 1) // max(base.epochs, 1) + 1  # epochs are rounded
    return any(stretched(base, quarters / 4) == recipe for quarters in range(5, most + 1))
