"""The detectors of detectron2 that can be built here, by the names of its configs.

A name without a folder is a config of its model zoo with another backbone or head, which papers used; `mini_` networks
are for two CPU cores. Nothing of detectron2 is imported here.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import SpecError, unknown

PREFIX = "detectron2:"

ZOO = ("COCO-Detection", "COCO-InstanceSegmentation", "Misc")
"""Folders of its configs whose detectors learn from boxes; heads for masks are left out."""

_BUILDABLE = re.compile(
    r"(?:.*/)?(?:mini_)?(retinanet|fcos|(?:cascade_|faster_|mask_)*rcnn)_(?:.*FPN.*|teacher|student)"
)


class Variant(NamedTuple):
    """A config of the zoo with changes, as pairs of a YAML config's key and value (Python configs: `depth` alone)."""

    config: str
    changes: tuple[tuple[str, Any], ...]


_X101 = (
    ("MODEL.WEIGHTS", "catalog://ImageNetPretrained/FAIR/X-101-64x4d"),
    ("MODEL.PIXEL_STD", [57.375, 57.120, 58.395]),
    ("MODEL.RESNETS.STRIDE_IN_1X1", False),
    ("MODEL.RESNETS.NUM_GROUPS", 64),
    ("MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    ("MODEL.RESNETS.DEPTH", 101),
)
VARIANTS = {
    "retinanet_X_101_64x4d_FPN": Variant("COCO-Detection/retinanet_R_101_FPN_3x", _X101),
    "cascade_mask_rcnn_X_101_64x4d_FPN": Variant("Misc/cascade_mask_rcnn_R_50_FPN_3x", _X101),
    "fcos_R_101_FPN": Variant("COCO-Detection/fcos_R_50_FPN_1x", (("depth", 101),)),
    "faster_rcnn_R_50_FPN_cls_agnostic": Variant(
        "COCO-Detection/faster_rcnn_R_50_FPN_1x", (("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),)
    ),
}
MINI = (
    *(f"mini_{head}_{role}" for head in ("retinanet", "fcos", "faster_rcnn") for role in ("teacher", "student")),
    "mini_cascade_rcnn_teacher",
)


def names() -> list[str]:
    """Every network that the installed detectron2 can build here; none where it is not installed."""
    folder = configs()
    if folder is None:
        return []
    zoo = [name for name in _zoo(folder) if _BUILDABLE.fullmatch(name)]
    return [PREFIX + name for name in (*zoo, *VARIANTS, *MINI)]


def head(name: str) -> str:
    """retinanet, fcos or faster_rcnn; an R-CNN with masks or a cascade has the outputs of a Faster R-CNN.

    Raises:
        SpecError: a config that kdbench has no adapter for; where detectron2 is installed, one that does not exist.
    """
    match = _BUILDABLE.fullmatch(name.removeprefix(PREFIX))
    if configs() is not None and name not in names():
        raise unknown("network", name, names())
    if match is None:
        raise SpecError(f"{name}: of detectron2, kdbench runs RetinaNet, FCOS, Faster and Cascade R-CNN with an FPN")
    return "faster_rcnn" if match[1].endswith("rcnn") else match[1]


def inits(name: str) -> tuple[str, ...]:
    """The initial weights that exist for a network.

    Raises:
        SpecError: as `head`.
    """
    head(name)  # a config that does not exist is refused before its weights are
    config = name.removeprefix(PREFIX)
    if config in MINI:
        return ("random",)
    return ("random", "imagenet") if config in VARIANTS else ("random", "imagenet", "published")


def configs() -> Path | None:
    """The folder of its configs; None where it is not installed."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "model_zoo" / "configs"


@cache
def _zoo(folder: Path) -> tuple[str, ...]:
    files = [path for part in ZOO for ending in ("yaml", "py") for path in (folder / part).glob(f"*.{ending}")]
    return tuple(sorted({str(path.relative_to(folder).with_suffix("")) for path in files}))
