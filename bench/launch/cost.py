"""The time that jobs take by the finished runs of a machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from ..records.row import Row
from ..spec.recipe import Recipe
from ..spec.run import Run
from ..train import online_teachers as online
from ..train.lr_schedule import total_steps


def steps_of(run: Run) -> int:
    """Optimizer steps of a run; one too few for an epoch that keeps its last, smaller batch."""
    recipe = run.recipe
    epoch = recipe.epoch_steps or run.data.train_images // recipe.batch_size
    return total_steps(recipe, epoch)


def seconds(runs: Sequence[Run], rows: Iterable[Row], machine: str) -> float | None:
    """Seconds that a cohort trains, without earlier phases and evaluation; None where no similar run has finished.

    A run takes what its method took on this machine with the same networks and batches, else the median of the methods
    that finished there.
    """
    batches = _batches(runs[0])
    similar = [
        row
        for row in rows
        if row.cost
        and row.run.data == runs[0].data
        and row.environment.machine == machine
        and row.run.recipe.batch_size == runs[0].recipe.batch_size
        and row.run.student in {run.student for run in runs}
        and _batches(row.run) == batches
    ]
    total, shared = 0.0, 0.0
    for run in runs:
        same = [row for row in similar if networks_of(row.run) == networks_of(run)]
        exact = [row.cost for row in same if row.run.method == run.method and row.cost]
        costs = exact or [row.cost for row in same if row.cost]
        if not costs:
            return None
        total += statistics.median(cost.student_seconds for cost in costs)
        shared = max(shared, statistics.median(cost.data_seconds + cost.teacher_seconds for cost in costs))
    return (total + shared) * max(steps_of(run) for run in runs)


def duration(value: float) -> str:
    """Seconds in words."""
    if value < 90:
        return f"{value:.0f} s"
    if value < 5400:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h" if value < 48 * 3600 else f"{value / 86400:.1f} days"


def networks_of(run: Run) -> tuple[str | None, ...]:
    """The student, its frozen teacher, its online teachers and their snapshots."""
    frozen = run.teacher.student if run.teacher else None
    return run.student, frozen, *online.teacher_names(run), *online.snapshot_names(run)


def _batches(run: Run) -> tuple[str, int, Recipe]:
    """What the time of a step depends on besides networks and method."""
    same = run.recipe.model_copy(update={"epochs": 1, "milestones": (), "max_steps": None, "epoch_steps": None})
    return run.data.model_dump_json(), run.recipe.batch_size, same
