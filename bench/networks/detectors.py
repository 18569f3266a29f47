"""torchvision's detectors by name: at paper size, and small ones for two CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Network

FAMILIES = ("retinanet", "fcos", "faster_rcnn")
PAPER_SIZE = tuple(f"{family}_{depth}_fpn" for family in FAMILIES for depth in ("r50", "r101", "x101"))
NAMES = PAPER_SIZE + tuple(f"{family}_mini_{role}" for family in FAMILIES for role in ("teacher", "student"))


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A detector with `num_classes` foreground classes; `init` as in `backbones.ResNetPyramid`.

    Raises:
        CheckpointError: weights are needed and cannot be had.
    """
    from . import detection
    from .backbones import MiniPyramid, ResNetPyramid

    kind = next(family for family in FAMILIES if name.startswith(family))
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
        width = 96 if kind == "fcos" else 64  # torchvision's FCOS head normalises in 32 groups
        pyramid = MiniPyramid(widths=(32, 64, 128, 224), blocks=(1, 2, 2, 2), out_channels=width)
    else:
        width = 64 if kind == "fcos" else 48
        pyramid = MiniPyramid(widths=(16, 32, 64, 128), blocks=(1, 1, 1, 1), out_channels=width)
    small: dict[str, dict[str, Any]] = {
        "retinanet": {"head_convs": 2, "anchor_size": 3.0, "octaves": 2, "ratios": (0.7, 1.4, 2.2), "candidates": 300},
        "fcos": {"head_convs": 2, "candidates": 300},
        "faster_rcnn": {"small": True},
    }
    return detector(pyramid, num_classes, **small[kind])
