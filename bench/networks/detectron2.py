"""detectron2's detectors by the names of its own configs, such as `detectron2:COCO-Detection/retinanet_R_50_FPN_1x`.

detectron2 (https://github.com/facebookresearch/detectron2) is optional and not on PyPI. Nothing of it is imported
before one of its networks is built, and whatever it defines stays in `_detectron2_models` and `_detectron2_configs`.
A name without a folder is a config of its zoo with another backbone or head, which papers used; `mini_` ones are for
two CPU cores.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SpecError, unknown

if TYPE_CHECKING:
    from .base import Network

PREFIX = "detectron2:"
GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
TESTED = "0.6 at commit 02b5c4e"

ZOO = ("COCO-Detection", "COCO-InstanceSegmentation", "Misc")
"""Folders of its configs whose detectors learn from boxes; the heads for masks are left out."""

_FAMILY = re.compile(r"(?:.*/)?(?:mini_)?(retinanet|fcos|(?:cascade_|faster_|mask_)*rcnn)_(?:.*FPN.*|teacher|student)")


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
    *(f"mini_{family}_{role}" for family in ("retinanet", "fcos", "faster_rcnn") for role in ("teacher", "student")),
    "mini_cascade_rcnn_teacher",
)


def names() -> list[str]:
    """Every network that the installed detectron2 can build here; none where it is not installed."""
    folder = configs()
    if folder is None:
        return []
    zoo = [name for name in _zoo(folder) if _FAMILY.fullmatch(name)]
    return [PREFIX + name for name in (*zoo, *VARIANTS, *MINI)]


def family(name: str) -> str:
    """One of retinanet, fcos and faster_rcnn; R-CNNs with masks or a cascade answer as Faster R-CNN does.

    Raises:
        SpecError: a config that kdbench has no adapter for; where detectron2 is installed, one that does not exist.
    """
    found = _FAMILY.fullmatch(name.removeprefix(PREFIX))
    if configs() is not None and name not in names():
        raise unknown("network", name, names())
    if found is None:
        raise SpecError(f"{name}: of detectron2, kdbench runs RetinaNet, FCOS, Faster and Cascade R-CNN with an FPN")
    return "faster_rcnn" if found[1].endswith("rcnn") else found[1]


def inits(name: str) -> set[str]:
    """What the weights of a network can start from."""
    own = name.removeprefix(PREFIX)
    if own in MINI:
        return {"random"}
    return {"random", "imagenet"} if own in VARIANTS else {"random", "imagenet", "published"}


@cache
def unavailable() -> str:
    """Why its networks cannot be built here; empty when they can."""
    if importlib.util.find_spec("detectron2") is None:
        return "detectron2 is not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it was written for is older than the torch that is here
            importlib.import_module("detectron2._C")
    except ImportError as error:
        return (
            f"detectron2 is installed, but its compiled operators cannot be loaded ({error}); build it again with the "
            f"torch that is installed here: {GUIDE}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("detectron2.modeling")
    except ImportError as error:
        return f"detectron2 is installed, but cannot be imported ({error}); install what it asks for: {GUIDE}"
    return ""


def report() -> tuple[str, bool]:
    """A line about the installation, and whether it is broken; that there is none is no fault."""
    if reason := unavailable():
        wrong = importlib.util.find_spec("detectron2") is not None
        advice = "" if wrong else f" (optional; {GUIDE} says how)"
        return f"{reason}{advice}; what needs it is skipped, all else runs", wrong
    version = importlib.import_module("detectron2").__version__
    return f"detectron2: {version}, its compiled operators load (tested with {TESTED})", False


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A detector with `num_classes` foreground classes.

    Args:
        name: one of `names()`.
        num_classes: K.
        init: "random" trains everything, with BatchNorm; "imagenet" loads the config's backbone weights, keeps every
            BatchNorm and freezes the first stages as the config says; "published" the zoo's weights of the whole.

    Raises:
        SpecError: detectron2 is missing or broken.
        CheckpointError: weights are needed and cannot be had, or are for other classes.
    """
    if reason := unavailable():
        raise SpecError(f"{name} cannot be built: {reason}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from . import _detectron2_configs

        return _detectron2_configs.build(name.removeprefix(PREFIX), num_classes, init)


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
