"""Tasks by name: the data set that a run names, opened and prepared for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from bench.errors import SpecError
from bench.specs import Data

if TYPE_CHECKING:
    from bench.recipe import Recipe
    from datasets.base import ImageSet
    from datasets.coco import CocoFolder

    from .base import Task

METRICS = {
    "classification": ("top1", "top5"),
    "detection": ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
}
"""What a table of a task can be about."""


def open_data(task: str, name: str, root: Path, path: Path | None, options: dict[str, Any]) -> CocoFolder | ImageSet:
    """The data set that a task trains on.

    Raises:
        DataError: it is missing or broken, or an option does not fit it.
        SpecError: the task's data sets have no variants.
    """
    if task == "classification":
        return datasets.open_images(name, root, path, **options)
    if options:
        raise SpecError(f"data of {name}: {', '.join(options)} are options of classification sets; remove them")
    return datasets.open_coco(name, root, path)


def verify(data: CocoFolder | ImageSet, full: bool = False) -> None:
    """Look at every file of a detection set, or decode it; a classification set's were looked at when it was opened.

    Raises:
        DataError: names the first broken file.
    """
    from datasets.base import ImageSet

    if not isinstance(data, ImageSet):
        data.train.verify(full)
        data.val.verify(full)


def describe(data: CocoFolder | ImageSet, options: dict[str, Any] | None = None) -> Data:
    """What stands in a run about its data."""
    from datasets.base import ImageSet

    if isinstance(data, ImageSet):
        sizes = (data.epoch_images, len(data.val))
    else:
        sizes = (data.train.counts.images, data.val.counts.images)
    return Data(
        name=data.name,
        fingerprint=data.fingerprint,
        train_images=sizes[0],
        val_images=sizes[1],
        classes=len(data.classes),
        options=options or {},
    )


def build(data: CocoFolder | ImageSet, recipe: Recipe, data_seed: int, workers: int = 0) -> Task:
    """The task that opened data is for, under a recipe.

    Raises:
        SpecError: the recipe does not fit the data.
    """
    from datasets.base import ImageSet

    if isinstance(data, ImageSet):
        from .classification import ClassificationTask

        return ClassificationTask(data, recipe, data_seed, workers)
    from .detection import DetectionTask

    return DetectionTask(data, recipe, data_seed, workers)
