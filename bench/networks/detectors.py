"""torchvision's detectors: at the size of the papers, smaller students, and small ones for two CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._family import Family

if TYPE_CHECKING:
    from .base import Network

HEADS = ("retinanet", "fcos", "faster_rcnn")
BACKBONES = ("r18", "r50", "r101", "x101", "mobilenet_v3")
FULL_SIZE = tuple(f"{head}_{backbone}_fpn" for head in HEADS for backbone in BACKBONES)
NAMES = FULL_SIZE + tuple(f"{head}_mini_{role}" for head in HEADS for role in ("teacher", "student"))


def head_of(name: str) -> str:
    """The head that a name starts with."""
    return next(head for head in HEADS if name.startswith(head))


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A detector for `num_classes` foreground classes.

    Args:
        name: one of `NAMES`.
        num_classes: K, the background not counted.
        init: "random", or "imagenet" for the backbone of a `FULL_SIZE` network (see `_backbones.ImageNetPyramid`).

    Raises:
        CheckpointError: weights are needed and neither on this machine nor downloadable.
    """
    from . import _torchvision_detectors as detectors
    from ._backbones import ImageNetPyramid, MiniPyramid

    head = head_of(name)
    detector: Callable[..., Network] = {
        "retinanet": detectors.RetinaNetDetector,
        "fcos": detectors.FCOSDetector,
        "faster_rcnn": detectors.FasterRCNNDetector,
    }[head]
    if name in FULL_SIZE:
        backbone = name.removeprefix(f"{head}_").removesuffix("_fpn")
        top = {"retinanet": "c5", "fcos": "p5", "faster_rcnn": "pool"}[head]
        return detector(ImageNetPyramid(backbone, init, top), num_classes)
    if name.endswith("_teacher"):
        width = 96 if head == "fcos" else 64  # torchvision's FCOS head normalizes in 32 groups
        pyramid = MiniPyramid(widths=(32, 64, 128, 224), blocks=(1, 2, 2, 2), out_channels=width)
    else:
        width = 64 if head == "fcos" else 48
        pyramid = MiniPyramid(widths=(16, 32, 64, 128), blocks=(1, 1, 1, 1), out_channels=width)
    return detector(pyramid, num_classes, **_MINI_OPTIONS[head])


_MINI_OPTIONS: dict[str, dict[str, Any]] = {
    "retinanet": {"head_convs": 2, "anchor_size": 3.0, "octaves": 2, "ratios": (0.7, 1.4, 2.2), "candidates": 300},
    "fcos": {"head_convs": 2, "candidates": 300},
    "faster_rcnn": {"small": True},
}

FAMILY = Family(
    task="detection",
    names=lambda: NAMES,
    head=head_of,
    build=build,
    inits=lambda name: ("random", "imagenet") if name in FULL_SIZE else ("random",),
)
