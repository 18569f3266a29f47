"""The interface of a network family: what a module of `kdbench.networks` declares as its `FAMILY`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Network


def _random(_name: str) -> Collection[str]:
    return ("random",)


def _no_options(_name: str) -> Collection[str]:
    return ()


def _always_available(_name: str) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks that one module lists and builds.

    The module is imported to list its names, so it imports torch and other large libraries only when it builds.

    Attributes:
        task: "classification", "detection" or "segmentation".
        names: lists the networks that can be built here.
        head: name -> the kind of head that teacher and student must share: "classifier", "segmenter" or a detector's.
        build: name, number of classes K, initial weights and the network's options -> the network. The name, the
            weights and the names of the options are checked before the call.
        inits: name -> the initial weights that exist for a network.
        options: name -> the names of further arguments of `build`.
        prefix: names that start with it belong to this family, whether it lists them or not.
        library: whose detectors these are; teacher and student must share it, because libraries order anchors
            differently.
        unavailable: name -> what is missing on this machine to build a network; empty where nothing is.
        report: the line that `kdbench check` prints about an optional library, and whether it is a problem.
    """

    task: str
    names: Callable[[], Collection[str]]
    head: Callable[[str], str]
    build: Callable[..., Network]
    inits: Callable[[str], Collection[str]] = _random
    options: Callable[[str], Collection[str]] = _no_options
    prefix: str = ""
    library: str = "torchvision"
    unavailable: Callable[[str], str] = _always_available
    report: Callable[[], tuple[str, bool]] | None = None
