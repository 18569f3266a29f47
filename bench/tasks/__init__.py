"""Tasks by name. A task is one file here, which declares all that is particular to it, and one entry in `TASKS`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ..errors import unknown

if TYPE_CHECKING:
    from .base import Metric, Task

TASKS = {
    "detection": f"{__name__}.detection:DetectionTask",
    "segmentation": f"{__name__}.segmentation:SegmentationTask",
    "classification": f"{__name__}.classification:ClassificationTask",
}
"""Module and class of each task, imported when needed; the user's data is of the first task that recognizes it."""


def names() -> list[str]:
    """Every task."""
    return list(TASKS)


def get(name: str) -> type[Task]:
    """The class of a task.

    Raises:
        SpecError: an unknown name; the nearest is suggested.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    module, _, attribute = TASKS[name].partition(":")
    task: type[Task] = getattr(importlib.import_module(module), attribute)
    return task


def metric(task: str, key: str) -> Metric:
    """A metric of a task.

    Raises:
        SpecError: an unknown task or metric; the nearest is suggested.
    """
    known = {each.key: each for each in get(task).metrics}
    if key not in known:
        raise unknown(f"metric of {task}", key, known)
    return known[key]


def with_metric(key: str) -> str | None:
    """The task that has this metric; None where it is none of ours."""
    return next((name for name in names() if any(each.key == key for each in get(name).metrics)), None)


def headline(task: str) -> Metric:
    """The metric by which networks of a task are compared.

    Raises:
        SpecError: an unknown task; the nearest is suggested.
    """
    return get(task).metrics[0]
