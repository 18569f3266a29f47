"""Segmentation networks: CIRKD's and mmsegmentation's at the size of the papers, and small ones for two CPU cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._family import Family

if TYPE_CHECKING:
    from .base import Network

PAPER_SIZE = ("deeplabv3_r101", "deeplabv3_r18", "deeplabv3_mbv2", "pspnet_r18", "pspnet_r101")
NAMES = (*PAPER_SIZE, "segmenter_mini_teacher", "segmenter_mini_student")

ENCODERS = {"r101": "resnet101", "r18": "resnet18", "mbv2": "mobilenet_v2"}


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A segmenter for `num_classes` classes.

    Args:
        name: one of `NAMES`.
        num_classes: K.
        init: "random", or "imagenet" for the encoder of a `PAPER_SIZE` network (see `_segmentation.encoder_of`).

    Raises:
        CheckpointError: weights are needed and neither on this machine nor downloadable.
    """
    from . import _segmentation

    if name in PAPER_SIZE:
        head, encoder = name.split("_")
        make = _segmentation.deeplabv3 if head == "deeplabv3" else _segmentation.pspnet
        return make(ENCODERS[encoder], num_classes, init)
    if name.endswith("_teacher"):
        return _segmentation.mini((16, 32, 64, 96, 128), (1, 2, 2, 2), 64, num_classes)
    return _segmentation.mini((16, 16, 24, 32, 48), (1, 1, 1, 1), 32, num_classes)


FAMILY = Family(
    task="segmentation",
    names=lambda: NAMES,
    head=lambda _name: "segmenter",
    build=build,
    inits=lambda name: ("random", "imagenet") if name in PAPER_SIZE else ("random",),
)
