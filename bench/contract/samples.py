"""Small batches and network outputs of every kind of network, with a student narrower than its teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.methods.base import IGNORE_INDEX, VIEWS, Batch, NetworkInfo, Outputs, Setting

CLASSES, ANCHORS, IMAGES, ROIS = 5, 2, 2, (3, 4)
WIDTHS = (4, 6)
"""Channels of student and teacher."""

SIZES = ((6, 5), (3, 3))
LENGTH: dict[str, Any] = {"steps_per_epoch": 5, "epochs": 10}
"""Of the training that the methods are built for."""

TASKS = {
    "classification": "classification",
    "segmentation": "segmentation",
    "dense": "detection",
    "two-stage": "detection",
}
"""The kinds of network and the task of each."""


@dataclass
class Sample:
    """A batch, the outputs of two networks for it, and the setting that describes them.

    Attributes:
        setting: the task and the networks' shapes.
        batch: of images that are zeros.
        student: random outputs that require gradients.
        teacher: likewise, so that a gradient that reaches them is seen.
    """

    setting: Setting
    batch: Batch
    student: Outputs
    teacher: Outputs


def make_sample(
    kind: str, widths: tuple[int, int] = WIDTHS, sizes: tuple[tuple[int, int], ...] = SIZES, images: int = IMAGES
) -> Sample:
    """A sample of a kind in TASKS; every output is random and requires a gradient, the teacher's too."""
    if kind == "classification":
        return classifier_sample(widths)
    if kind == "segmentation":
        return segmenter_sample(widths)
    generator = torch.Generator().manual_seed(7)

    def outputs(width: int) -> Outputs:
        def rand(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).requires_grad_()

        features = tuple(rand(images, width, *size) for size in sizes)
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
    setting = Setting(TASKS[kind], CLASSES, 20, infos[0], infos[1], batch_size=images, **LENGTH)
    batch = Batch(torch.zeros(images, 3, 24, 20), _detector_targets(images), torch.arange(images))
    return Sample(setting, batch, outputs(widths[0]), outputs(widths[1]))


def _detector_targets(images: int) -> list[dict[str, Tensor]]:
    """Targets of images of 24x20 pixels, padded but for the first: it has two boxes that overlap, the others none."""
    boxes = torch.tensor([[2.0, 3.0, 9.0, 15.0], [6.0, 1.0, 19.0, 22.0]])
    counts, sizes = [2, *[0] * (images - 1)], [(24, 20), *[(18, 16)] * (images - 1)]
    return [
        {"boxes": boxes[:count], "labels": torch.arange(count), "size": torch.tensor(size)}
        for count, size in zip(counts, sizes, strict=True)
    ]


def classifier_sample(widths: tuple[int, int] = WIDTHS, images: int = 4, samples: int = 20_000) -> Sample:
    """As `make_sample`, of two classifiers with a stem and three stages, as CIFAR's ResNets, and with all views."""
    generator = torch.Generator().manual_seed(7)
    sizes = (8, 8, 4, 2)

    def channels(width: int) -> tuple[int, ...]:
        return width, width, 2 * width, 4 * width

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    def outputs(width: int) -> Outputs:
        maps = [(images, c, size, size) for c, size in zip(channels(width), sizes, strict=True)]
        features = tuple(rand(*shape) for shape in maps)
        before = tuple(rand(*shape) for shape in maps[1:])
        extra: dict[str, Tensor | tuple[Tensor, ...]] = {"pre_activations": before, "last_map": features[-1]}
        return Outputs(rand(images, CLASSES), features, pooled=rand(images, 4 * width), extra=extra)

    def info(width: int) -> NetworkInfo:
        norms = tuple(nn.BatchNorm2d(c) for c in channels(width)[1:])
        for norm in norms:
            norm.weight.data = torch.rand(norm.weight.shape, generator=generator) + 0.5
            norm.bias.data = torch.randn(norm.bias.shape, generator=generator)
        classifier = nn.Linear(4 * width, CLASSES).requires_grad_(False)
        return NetworkInfo(channels(width), (1, 1, 2, 4), 4 * width, classifier, norms)

    torch.manual_seed(3)
    targets = torch.arange(samples) % CLASSES
    infos = info(widths[0]), info(widths[1])
    setting = Setting("classification", CLASSES, samples, *infos, targets, batch_size=images, **LENGTH)
    setting = replace(setting, new_student=SecondStudent)
    batch = Batch(torch.zeros(images, 3, 8, 8), targets[:images], torch.arange(images))
    both = [outputs(width) for width in widths]
    for shown, width in zip(both, widths, strict=True):
        shown.views = {name: outputs(width) for name in VIEWS}
    batch.views = {name: replace(batch) for name in VIEWS}
    return Sample(setting, batch, *both)


class SecondStudent(nn.Module):
    """What `Setting.new_student` makes: logits of the mean color."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Outputs:
        return Outputs(self.classify(x.mean(dim=(2, 3))), ())


def segmenter_sample(widths: tuple[int, int] = WIDTHS, images: int = IMAGES) -> Sample:
    """As `make_sample`, of two segmenters of output stride 8: the stem, four stages and the map before the classifier.

    The masks have patches of 8x8 pixels, so that every class and IGNORE_INDEX also occur at stride 8, and a border of
    IGNORE_INDEX.
    """
    generator = torch.Generator().manual_seed(7)
    height, width = 48, 64
    strides, factors = (2, 4, 8, 8, 8, 8), (1, 1, 2, 2, 8, 1)

    def rand(channels: int, stride: int) -> Tensor:
        shape = (images, channels, height // stride, width // stride)
        return torch.randn(shape, generator=generator).requires_grad_()

    def outputs(info: NetworkInfo) -> Outputs:
        features = tuple(rand(channels, stride) for channels, stride in zip(info.channels, strides, strict=True))
        return Outputs(rand(CLASSES, 8), features, extra={"aux_logits": rand(CLASSES, 8)})

    infos = [NetworkInfo(tuple(base * factor for factor in factors), strides) for base in widths]
    patches = torch.randint(0, CLASSES + 1, (images, height // 8, width // 8), generator=generator)
    patches = torch.where(patches == CLASSES, IGNORE_INDEX, patches)
    targets = patches.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    targets[:, :3] = targets[:, :, -3:] = IGNORE_INDEX
    setting = Setting("segmentation", CLASSES, 20, infos[0], infos[1], batch_size=images, **LENGTH)
    batch = Batch(torch.zeros(images, 3, height, width), targets, torch.arange(images))
    return Sample(setting, batch, outputs(infos[0]), outputs(infos[1]))
