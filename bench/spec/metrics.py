"""The metrics of each task by the names that rows have; the tasks themselves compute them."""

from __future__ import annotations

from collections.abc import Iterable

METRICS = {
    "detection": (
        *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
        *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
    ),
    "segmentation": ("miou", "pixel_accuracy"),
    "classification": ("top1", "top5", "agreement", "agreement5"),
}
"""By task; the first is the headline metric."""

OF_A_CLASS = {"segmentation": "iou/"}
"""What the names of a task's further metrics, one a class, begin with."""


def unknown_metric(task: str, names: Iterable[str]) -> str | None:
    """The first name that is no metric of the task; None where all are."""
    known, start = METRICS[task], OF_A_CLASS.get(task)
    return next((name for name in names if name not in known and not (start and name.startswith(start))), None)
