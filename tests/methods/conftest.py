"""Small batches and network outputs of every kind, with a student narrower than its teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from methods.base import Batch, NetworkInfo, Outputs, Setting

CLASSES, ANCHORS, IMAGES, ROIS = 5, 2, 2, (3, 4)
SIZES = ((6, 5), (3, 3))
TASKS = {
    "classification": "classification",
    "segmentation": "segmentation",
    "dense": "detection",
    "two-stage": "detection",
}
"""The kinds of network and the task of each."""


@dataclass
class Sample:
    setting: Setting
    batch: Batch
    student: Outputs
    teacher: Outputs


def make_sample(
    kind: str, widths: tuple[int, int] = (4, 6), sizes: tuple[tuple[int, int], ...] = SIZES, images: int = IMAGES
) -> Sample:
    """A sample of a kind in TASKS; every output is random and requires a gradient, the teacher's too."""
    generator = torch.Generator().manual_seed(7)

    def outputs(width: int) -> Outputs:
        def rand(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).requires_grad_()

        features = tuple(rand(images, width, *size) for size in sizes)
        if kind == "classification":
            return Outputs(rand(images, CLASSES), features, pooled=features[-1].mean(dim=(2, 3)))
        if kind == "segmentation":
            aux = rand(images, CLASSES, *sizes[0])
            return Outputs(rand(images, CLASSES, *sizes[0]), features, extra={"aux_logits": aux})
        boxes = tuple(rand(images, ANCHORS * 4, *size) for size in sizes)
        if kind == "dense":
            return Outputs(tuple(rand(images, ANCHORS * CLASSES, *size) for size in sizes), features, boxes=boxes)
        objectness = tuple(rand(images, ANCHORS, *size) for size in sizes)
        rois = sum(ROIS)
        extra: dict[str, Tensor | tuple[Tensor, ...]] = {
            "proposals": tuple(torch.rand(count, 4, generator=generator) for count in ROIS),
            "roi_logits": rand(rois, CLASSES + 1),
            "roi_boxes": rand(rois, (CLASSES + 1) * 4),
        }
        return Outputs(objectness, features, boxes=boxes, extra=extra)

    infos = [NetworkInfo((width,) * len(sizes), strides=(8, 16)[: len(sizes)], pooled_dim=width) for width in widths]
    task = TASKS[kind]
    setting = Setting(task, CLASSES, num_samples=20, student=infos[0], teacher=infos[1])
    targets: object = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)} for _ in range(images)]
    if task == "classification":
        targets = torch.arange(images) % CLASSES
    elif task == "segmentation":
        targets = torch.randint(0, CLASSES, (images, 2 * sizes[0][0], 2 * sizes[0][1]), generator=generator)
    batch = Batch(torch.zeros(images, 3, 24, 20), targets, torch.arange(images))
    return Sample(setting, batch, outputs(widths[0]), outputs(widths[1]))


@pytest.fixture
def sample() -> Callable[..., Sample]:
    return make_sample


@pytest.fixture
def dense() -> Sample:
    return make_sample("dense")


@pytest.fixture
def plain() -> Sample:
    """A dense detector whose student is as wide as its teacher, for methods built with align=None."""
    return make_sample("dense", widths=(6, 6))
