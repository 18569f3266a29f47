"""Classification of image files: short recipes, and the batches of an epoch."""

from __future__ import annotations

from typing import Any

import torch

from kdbench.datasets.base import ImageSet
from kdbench.methods.base import Batch
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.tasks.classification import ClassificationTask

CPU = torch.device("cpu")
STRONG = {"rand_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 1.0}


def recipe_of(batch_size: int = 4, drop_last: bool = False, epoch_steps: int | None = None, **image: Any) -> Recipe:
    given = {"kind": "resized_crop", "size": 16, "val_resize": 20} | image
    fields = {"batch_size": batch_size, "drop_last": drop_last, "epoch_steps": epoch_steps, "image": given}
    return load_recipe("imagenet_b1", fields)


def task_of(data: ImageSet, seed: int = 5, workers: int = 0, **recipe: Any) -> ClassificationTask:
    return ClassificationTask(data, recipe_of(**recipe), seed, workers)


def batches(task: ClassificationTask, epoch: int = 0, stream: str = "train") -> list[Batch]:
    return list(task.batches(epoch, CPU, stream))


def by_index(stream: list[Batch]) -> dict[int, torch.Tensor]:
    """Every image of an epoch by its position in the training set."""
    return {i: image for batch in stream for i, image in zip(batch.index.tolist(), batch.inputs, strict=True)}
