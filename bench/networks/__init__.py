"""Teachers and students by name. `build(name, num_classes)` is a network; `network(x)` its `Outputs` in one forward.

Each family is a module with `NAMES` and `build`; it is imported when one of its networks is built.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import SpecError, unknown
from . import cifar, detectors, detectron2, imagenet, segmenters

if TYPE_CHECKING:
    from .base import Network


def names() -> list[str]:
    """Every network that can be named here; detectron2's where it is installed."""
    return sorted([*cifar.NAMES, *imagenet.NAMES, *detectors.NAMES, *segmenters.NAMES, *detectron2.names()])


def task(name: str) -> str:
    """The task that a network is for.

    Raises:
        SpecError: an unknown name; the nearest is suggested.
    """
    if name.startswith(detectron2.PREFIX):
        return "detection"
    if name not in names():
        raise unknown("network", name, names())
    if name in segmenters.NAMES:
        return "segmentation"
    return "detection" if name in detectors.NAMES else "classification"


def family(name: str) -> str:
    """What teacher and student must have in common: a detector's head ("retinanet", ...), "classifier" or "segmenter".

    Raises:
        SpecError: an unknown name; the nearest is suggested.
    """
    if name.startswith(detectron2.PREFIX):
        return detectron2.family(name)
    other = {"classification": "classifier", "segmentation": "segmenter"}.get(task(name))
    return other or re.split(r"_(?:r50|r101|x101|mini)_", name)[0]


def library(name: str) -> str:
    """Whose detector a network is, "detectron2" or "torchvision"; other networks of all libraries go together."""
    return "detectron2" if name.startswith(detectron2.PREFIX) else "torchvision"


def unavailable(name: str) -> str:
    """Why a network cannot be built on this machine, as far as that hangs on what is installed; else empty."""
    return detectron2.unavailable() if name.startswith(detectron2.PREFIX) else ""


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A network for `num_classes` classes, a detector's background not counted.

    Args:
        name: one of `names()`.
        num_classes: K.
        init: "random"; "imagenet" for the backbone of a paper-size detector (see `backbones.ResNetPyramid`) or
            segmenter (`segmentation.encoder_of`); "published" for a whole ImageNet network or detector of detectron2.

    Raises:
        SpecError: an unknown name (the nearest is suggested), or an `init` that the network does not know.
        CheckpointError: weights are needed and cannot be had.
    """
    check_init(name, init)
    if name.startswith(detectron2.PREFIX):
        return detectron2.build(name, num_classes, init)
    if name in cifar.NAMES:
        return cifar.build(name, num_classes)
    if name in imagenet.NAMES:
        return imagenet.build(name, num_classes, init)
    if name in segmenters.NAMES:
        return segmenters.build(name, num_classes, init)
    return detectors.build(name, num_classes, init)


def check_init(name: str, init: str) -> None:
    """Refuse weights that a network cannot start from.

    Raises:
        SpecError: the network does not exist, or has no such weights.
    """
    if name.startswith(detectron2.PREFIX):
        family(name)  # a config that does not exist is refused before anything else
    if init not in (known := _inits(name)):
        words = " or ".join(sorted(known))
        raise SpecError(
            f"{name} has no weights {init!r} to start from; set init (a teacher's: teacher.init) to {words}"
        )


def _inits(name: str) -> set[str]:
    """What the weights of a network can start from."""
    if name.startswith(detectron2.PREFIX):
        return detectron2.inits(name)
    if task(name) == "classification":
        return {"random", "published"} if name in imagenet.NAMES else {"random"}
    return {"random", "imagenet"} if name in detectors.PAPER_SIZE + segmenters.PAPER_SIZE else {"random"}
