"""Tasks by name: the data set that a run names, opened and prepared for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kdbench import datasets

from ..errors import SpecError
from ..spec.run import Data

if TYPE_CHECKING:
    from kdbench.datasets.base import ImageSet, MaskSet
    from kdbench.datasets.coco import CocoFolder

    from ..spec.recipe import Recipe
    from .base import Task

    Opened: TypeAlias = CocoFolder | ImageSet | MaskSet

METRICS = {
    "classification": ("top1", "top5"),
    "detection": ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    "segmentation": ("miou", "pixel_accuracy"),
}
"""What a table of a task can be about."""


CAPTURED = frozenset({"classification"})
"""Tasks whose steps are the same work on tensors of the same shapes, as `kdbench.train.capture` needs it."""


def open_data(task: str, name: str, root: Path, path: Path | None, options: dict[str, Any]) -> Opened:
    """The data set that a task trains on.

    Raises:
        DataError: it is missing or broken, or an option does not fit it.
        SpecError: the task's data sets have no variants.
    """
    if task == "classification":
        return datasets.open_images(name, root, path, **options)
    if task == "segmentation":
        return datasets.open_masks(name, root, path, **options)
    if options:
        raise SpecError(f"data of {name}: detection sets have no options ({', '.join(options)}); remove them")
    return datasets.open_coco(name, root, path)


def verify(data: Opened, full: bool = False) -> None:
    """Look at every file of a set, or decode it; a classification set's were looked at when it was opened.

    Raises:
        DataError: names the first broken file.
    """
    from kdbench.datasets.base import ImageSet

    if not isinstance(data, ImageSet):
        data.train.verify(full)
        data.val.verify(full)


def describe(data: Opened, options: dict[str, Any] | None = None) -> Data:
    """What stands in a run about its data."""
    from kdbench.datasets.base import ImageSet, MaskSet

    if isinstance(data, ImageSet):
        sizes = (data.epoch_images, len(data.val))
    elif isinstance(data, MaskSet):
        sizes = (len(data.train), len(data.val))
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


def build(data: Opened, recipe: Recipe, data_seed: int, workers: int = 0) -> Task:
    """The task that opened data is for, under a recipe.

    Raises:
        SpecError: the recipe does not fit the data.
    """
    from kdbench.datasets.base import ImageSet, MaskSet

    if isinstance(data, ImageSet):
        from .classification import ClassificationTask

        return ClassificationTask(data, recipe, data_seed, workers)
    if isinstance(data, MaskSet):
        from .segmentation import SegmentationTask

        return SegmentationTask(data, recipe, data_seed, workers)
    from .detection import DetectionTask

    return DetectionTask(data, recipe, data_seed, workers)
