"""The interface of a network family: what a module of `kdbench.networks` declares as its `FAMILY`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from .base import Network


@dataclass(frozen=True)
class PublishedFile:
    """What a library states of one of its files of weights.

    Attributes:
        metrics: percent on the validation images that the library evaluates on; empty where it states none.
        mean: of the images' normalisation, RGB in 0..1.
        std: likewise.
        size: side of the images, pixels.
        val_resize: length to which the shorter side is resized before the center crop, pixels.
        interpolation: of that resize.
        source: where it is stated.
        licence: of the weights.
    """

    metrics: dict[str, float]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    val_resize: int
    interpolation: str
    source: str
    licence: str


def _unknown_file(_name: str, _file: Path, _sha256: str) -> PublishedFile | None:
    return None


def _random(_name: str) -> Collection[str]:
    return ("random",)


def _no_options(_name: str) -> Collection[str]:
    return ()


def _always_available(_name: str) -> str:
    return ""


def _any_size(name: str, _size: tuple[int, int]) -> str:
    return name


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks that one module lists and builds.

    The module is imported to list its names, so it imports torch and other large libraries only when it builds.

    Attributes:
        task: "classification", "detection" or "segmentation"; of a family with several, name -> task.
        names: lists the networks that can be built here.
        head: name -> the kind of head that teacher and student must share: "classifier", "segmenter" or a detector's.
        build: name, number of classes K, initial weights and the network's options -> the network. The name, the
            weights and the names of the options are checked before the call.
        inits: name -> the initial weights that exist for a network.
        options: name -> the names of further arguments of `build`.
        pattern: regular expression; names that start with a match belong to this family, whether it lists them or not.
        check: refuses a name that matches the pattern and is none of the family's, by a SpecError.
        for_images: name, height and width in pixels -> the name of the network that reads images of this size, which
            is another one where an architecture is built for one size.
        weights: name and K -> the file of its published weights for K classes, downloaded once; None where they are in
            no single file.
        library: whose detectors these are; teacher and student must share it, because libraries order anchors
            differently.
        unavailable: name -> what is missing on this machine to build a network; empty where nothing is.
        published: name, file and its sha256 -> what the network's library states of this file; None where it is none
            of the library's.
        report: the line that `kdbench check` prints about an optional library, and whether it is a problem.
    """

    task: str | Callable[[str], str]
    names: Callable[[], Collection[str]]
    head: Callable[[str], str]
    build: Callable[..., Network]
    inits: Callable[[str], Collection[str]] = _random
    options: Callable[[str], Collection[str]] = _no_options
    pattern: str = ""
    check: Callable[[str], None] = lambda _name: None
    for_images: Callable[[str, tuple[int, int]], str] = _any_size
    weights: Callable[[str, int], Path] | None = None
    library: str = "torchvision"
    unavailable: Callable[[str], str] = _always_available
    published: Callable[[str, Path, str], PublishedFile | None] = _unknown_file
    report: Callable[[], tuple[str, bool]] | None = None


def check_published_classes(name: str, published: int, num_classes: int) -> None:
    """Refuse published weights that are for another number of classes than the data has.

    Raises:
        SpecError: names both.
    """
    if published != num_classes:
        raise SpecError(
            f"{name}: the published weights are for {published} classes and the data has {num_classes}; train it here "
            f"(init: random; a teacher: --pairs), or give a teacher's checkpoint with --teacher {name}=FILE"
        )
