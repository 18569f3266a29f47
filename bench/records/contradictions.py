"""What the fields of a row say of each other: values that are possible alone and that no run has together."""

from __future__ import annotations

from collections.abc import Iterator

from ..spec.metrics import METRICS, unknown_metric
from ..spec.run import Run
from .history import Scores
from .row import Metrics, Result

ROUNDING = 1e-3
"""Percentage points by which a mean may exceed its largest value."""

SHORTEST = 1e-9
"""Seconds of a step."""

NESTED = (("top1", "top5"), ("agreement", "agreement5"))
"""Metrics of which the second counts all that the first counts."""


def contradiction(run: Run, result: Result) -> str:
    """The first contradiction between the fields of a row, which names them; empty for a row without any."""
    return next(_contradictions(run, result), "")


def _contradictions(run: Run, result: Result) -> Iterator[str]:
    if run.task not in METRICS:
        yield f"run.task: {run.task!r} is no task ({', '.join(METRICS)})"
        return
    if result.metrics is not None:
        yield from _of_metrics(run, result.metrics)
    yield from _of_teacher(run, result)
    if result.cost is not None and result.steps and result.cost.step_seconds < SHORTEST:
        yield f"cost.step_seconds: {result.cost.step_seconds} is shorter than any step"


def _of_metrics(run: Run, metrics: Metrics) -> Iterator[str]:
    key = METRICS[run.task][0]
    for place, scores in (("last", metrics.last), ("best", metrics.best), ("mean_last10", metrics.mean_last10)):
        if key not in scores:
            yield f"metrics.{place}: has no {key}, the metric of {run.task}"
            return
        yield from _of_scores(f"metrics.{place}", run.task, scores)
    best, epochs = metrics.best[key], max(run.recipe.epochs, 1)
    if metrics.last[key] > best:
        yield f"metrics.best.{key}: {best} is below the {metrics.last[key]} of the last epoch"
    if metrics.mean_last10[key] > best + ROUNDING:
        yield f"metrics.mean_last10.{key}: {metrics.mean_last10[key]} is above the best epoch's {best}"
    if metrics.best_epoch > run.recipe.epochs:
        yield f"metrics.best_epoch: {metrics.best_epoch} is not among the recipe's {run.recipe.epochs} epochs"
    if not 1 <= metrics.evaluated <= epochs:
        yield f"metrics.evaluated: {metrics.evaluated} is not 1 to {epochs}, the recipe's epochs"


def _of_scores(place: str, task: str, scores: Scores) -> Iterator[str]:
    if (name := unknown_metric(task, scores)) is not None:
        yield f"{place}.{name}: is no metric of {task}"
    for inner, outer in NESTED:
        if scores.get(outer, 100.0) < scores.get(inner, 0.0):
            yield f"{place}.{outer}: {scores[outer]} is below {inner}, {scores[inner]}"


def _of_teacher(run: Run, result: Result) -> Iterator[str]:
    if result.teacher is None:
        if run.teacher is not None and result.status == "done":
            yield f"teacher: is missing, and the run has the teacher {run.teacher.student}"
    elif run.teacher_network is None:
        yield f"teacher: is {result.teacher.network}, and the run has none"
    elif result.teacher.network != run.teacher_network:
        yield f"teacher.network: is {result.teacher.network}, and the run's teacher is {run.teacher_network}"
