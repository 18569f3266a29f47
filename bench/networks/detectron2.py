"""detectron2's detectors by the names of its configs, such as `detectron2:COCO-Detection/retinanet_R_50_FPN_1x`.

detectron2 (https://github.com/facebookresearch/detectron2) is optional and not on PyPI. Nothing of it is imported
before one of its networks is built; `_detectron2_zoo` lists them, `_detectron2_configs` builds them from its configs,
`_detectron2_models` adapts its models to `Network` and `_detectron2_weights` loads its files.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import cache
from typing import TYPE_CHECKING

from ..errors import SpecError
from . import _detectron2_zoo as zoo
from ._family import Family

if TYPE_CHECKING:
    from .base import Network

GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
TESTED = "0.6 at commit 02b5c4e"


@cache
def unavailable() -> str:
    """What is missing on this machine to build its networks; empty where nothing is."""
    if importlib.util.find_spec("detectron2") is None:
        return "detectron2 is not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was written for an older torch than the installed one
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
    """A line about the installation, and whether it is broken; a missing installation is not an error."""
    if reason := unavailable():
        broken = importlib.util.find_spec("detectron2") is not None
        advice = "" if broken else f" (optional; see {GUIDE})"
        return f"{reason}{advice}; what needs it is skipped, all else runs", broken
    version = importlib.import_module("detectron2").__version__
    return f"detectron2: {version}, its compiled operators load (tested with {TESTED})", False


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A detector with `num_classes` foreground classes.

    Args:
        name: one of `_detectron2_zoo.names()`.
        num_classes: K.
        init: "random" trains everything, with BatchNorm; "imagenet" loads the config's backbone weights, keeps every
            BatchNorm and freezes the first stages that the config names; "published" loads the zoo's weights of the
            whole network.

    Raises:
        SpecError: detectron2 is missing or broken.
        CheckpointError: weights are needed and cannot be loaded, or are for other classes.
    """
    if reason := unavailable():
        raise SpecError(f"{name} cannot be built: {reason}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from . import _detectron2_configs

        return _detectron2_configs.build(name.removeprefix(zoo.PREFIX), num_classes, init)


FAMILY = Family(
    task="detection",
    names=zoo.names,
    head=zoo.head,
    build=build,
    inits=zoo.inits,
    pattern=zoo.PREFIX,
    library="detectron2",
    unavailable=lambda _name: unavailable(),
    report=report,
)
