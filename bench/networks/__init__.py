"""Teachers and students by name: `build(name, num_classes)` returns a `Network`, whose forward returns `Outputs`.

Every module of this package without a leading underscore, except `NOT_FAMILIES`, is a family: it declares a `Family`
named `FAMILY`. To add a family, add its file; no list of families exists. Installed packages declare families as entry
points of the group `kdbench.networks`, and networks in users' files have names such as `net.py:build`.
"""

from __future__ import annotations

import pkgutil
import re
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from ..errors import SpecError, unknown
from ..spec import network_name
from ._family import Family, PublishedFile

if TYPE_CHECKING:
    from pathlib import Path

    from .base import Network

__all__ = ["Family", "PublishedFile", "build", "check_init", "family", "library", "names", "published", "reports"]
__all__ += ["for_images", "is_outside", "task", "unavailable", "weights"]

NOT_FAMILIES = ("base", "hooked", "load", "with_head")
GROUP = "kdbench.networks"
"""Entry points of packages: a family's name, and its `Family` as `module:FAMILY`."""


def names() -> list[str]:
    """Every network that can be built here, sorted; those of optional libraries where they are installed."""
    return sorted(name for each in _families().values() for name in each.names())


def task(name: str) -> str:
    """The task of a network: "classification", "detection" or "segmentation".

    Raises:
        SpecError: an unknown name; the nearest is suggested.
    """
    of = _family_of(name).task
    return of if isinstance(of, str) else of(name)


def family(name: str) -> str:
    """What teacher and student must have in common: a detector's head ("retinanet", ...), "classifier" or "segmenter".

    Raises:
        SpecError: an unknown name; the nearest is suggested.
    """
    return _family_of(name).head(name)


def library(name: str) -> str:
    """The library of a detector, such as "torchvision" or "detectron2"; it has no meaning for the rest.

    Raises:
        SpecError: an unknown name; the nearest is suggested.
    """
    return _family_of(name).library


def published(name: str, file: Path, sha256: str) -> PublishedFile | None:
    """What a network's library states of a file of weights; None where it is none of the library's.

    Raises:
        SpecError: an unknown name; the nearest is suggested.
    """
    return _family_of(name).published(name, file, sha256)


def unavailable(name: str) -> str:
    """What is missing on this machine to build a network; empty where nothing is.

    Raises:
        SpecError: an unknown name; the nearest is suggested.
    """
    return _family_of(name).unavailable(name)


def is_outside(name: str) -> bool:
    """Whether a network is in a user's file, or named by a library of classifiers rather than here."""
    return network_name.is_outside(name)


def for_images(name: str, size: tuple[int, int]) -> str:
    """The network that reads images of this size: another name where an architecture is built for one size.

    Args:
        name: of a network.
        size: height and width of the images in pixels.

    Raises:
        SpecError: an unknown name, or an architecture that cannot be built for this size.
    """
    return _family_of(name).for_images(name, size)


def weights(name: str, num_classes: int) -> Path:
    """The file of a network's published weights, downloaded once where that is possible.

    Raises:
        SpecError: an unknown name, or there are none for so many classes.
        CheckpointError: they are neither on this machine nor downloadable.
    """
    found = _family_of(name).weights
    if found is None:
        raise SpecError(f"{name} has no published weights; give a file with --teacher {name}=FILE")
    return found(name, num_classes)


def reports() -> list[tuple[str, bool]]:
    """What `kdbench check` prints about optional libraries: a line for each, and whether it is a problem."""
    return [each.report() for each in _families().values() if each.report is not None]


def build(name: str, num_classes: int, init: str = "random", **options: Any) -> Network:
    """A network for `num_classes` classes.

    Args:
        name: one of `names()`.
        num_classes: K; a detector's background is not counted.
        init: "random"; "imagenet" for the backbone of a paper-size detector or segmenter; "published" for a whole
            ImageNet classifier or detector of detectron2.
        options: of the network, such as `drop_path` of `swin_t`.

    Raises:
        SpecError: an unknown name or option (the nearest is suggested), or an `init` that the network does not have.
        CheckpointError: weights are needed and neither on this machine nor downloadable.
    """
    check_init(name, init)
    chosen = _family_of(name)
    known = chosen.options(name)
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    return chosen.build(name, num_classes, init, **options)


def check_init(name: str, init: str) -> None:
    """Refuse initial weights that do not exist for a network.

    Raises:
        SpecError: the network does not exist, or has no such weights.
    """
    known = _family_of(name).inits(name)
    if init not in known:
        raise SpecError(
            f"{name} has no weights {init!r} to start from; set init (a teacher's: teacher.init) to "
            f"{' or '.join(sorted(known))}"
        )


def _family_of(name: str) -> Family:
    """The family of a network: the one whose pattern the name has, else the one that lists it."""
    for each in _families().values():
        if each.pattern and re.match(each.pattern, name):
            each.check(name)
            return each
    modules = [module for module, each in _families().items() if name in each.names()]
    if not modules:
        raise unknown("network", name, names())
    if len(modules) > 1:
        raise SpecError(f"{' and '.join(modules)} each have a network {name}; rename all but one of them")
    return _families()[modules[0]]


def _families() -> dict[str, Family]:
    return _scan(tuple(__path__))


@cache
def _scan(folders: tuple[str, ...]) -> dict[str, Family]:
    """The families in the folders of this package, by module name."""
    modules = sorted(module.name for module in pkgutil.iter_modules(folders))
    here = {name: _declared(name) for name in modules if not name.startswith("_") and name not in NOT_FAMILIES}
    return here | {point.name: _of_package(point) for point in entry_points(group=GROUP) if point.name not in here}


def _of_package(point: EntryPoint) -> Family:
    """The family that an installed package declares.

    Raises:
        SpecError: it cannot be imported, or is none.
    """
    try:
        family = point.load()
    except Exception as error:
        raise SpecError(f"networks {point.name} of {point.value}: {type(error).__name__}: {error}") from error
    if not isinstance(family, Family):
        raise SpecError(f"{point.value} is no kdbench.networks.Family; declare one for the entry point {point.name}")
    return family


def _declared(module: str) -> Family:
    family = getattr(import_module(f"{__name__}.{module}"), "FAMILY", None)
    if not isinstance(family, Family):
        raise ImportError(f"networks/{module}.py declares no FAMILY; see kdbench.networks.Family")
    return family
