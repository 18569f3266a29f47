"""Teachers and students by name. `build(name, num_classes)` is a network; `network(x)` its `Outputs` in one forward."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.errors import unknown

if TYPE_CHECKING:
    from .base import Network

PAPER_SIZE = tuple(
    f"{family}_{depth}_fpn" for family in ("retinanet", "fcos", "faster_rcnn") for depth in ("r50", "r101", "x101")
)
MINI = tuple(
    f"{family}_mini_{role}" for family in ("retinanet", "fcos", "faster_rcnn") for role in ("teacher", "student")
)


def names() -> list[str]:
    return sorted([*PAPER_SIZE, *MINI])


def family(name: str) -> str:
    """ "retinanet", "fcos" or "faster_rcnn": what teacher and student must have in common."""
    if name not in names():
        raise unknown("network", name, names())
    return re.split(r"_(?:r50|r101|x101|mini)_", name)[0]


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A network with `num_classes` foreground classes.

    Args:
        name: one of `names()`.
        num_classes: classes without the background.
        init: "random", or "imagenet" for a paper-size network's backbone (see `backbones.ResNetPyramid`).

    Raises:
        SpecError: an unknown name; the nearest is suggested.
        CheckpointError: weights are needed and cannot be had.
    """
    kind = family(name)
    from . import detection
    from .backbones import MiniPyramid, ResNetPyramid

    detector: Callable[..., Network] = {
        "retinanet": detection.RetinaNetDetector,
        "fcos": detection.FCOSDetector,
        "faster_rcnn": detection.FasterRCNNDetector,
    }[kind]
    if name in PAPER_SIZE:
        depth = name.removesuffix("_fpn").rsplit("_", 1)[1]
        top = {"retinanet": "c5", "fcos": "p5", "faster_rcnn": "pool"}[kind]
        return detector(ResNetPyramid(depth, init, top), num_classes)
    if name.endswith("_teacher"):
        pyramid = MiniPyramid(widths=(32, 64, 128, 160), blocks=(1, 2, 2, 2), out_channels=128)
    else:
        pyramid = MiniPyramid(widths=(16, 32, 64, 80), blocks=(1, 1, 1, 1), out_channels=64)
    small: dict[str, dict[str, Any]] = {
        "retinanet": {"head_convs": 2, "anchor_size": 3.0, "ratios": (0.7, 1.4, 2.2)},
        "fcos": {"head_convs": 2},
        "faster_rcnn": {"small": True},
    }
    return detector(pyramid, num_classes, **small[kind])
