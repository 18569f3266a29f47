"""Mask files: decoded to class indices, with every label checked, and the classes that they contain."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import _images
from ._errors import DataError
from ._ignore_index import IGNORE_INDEX


@dataclass(frozen=True)
class Census:
    """The classes that the masks of a split contain.

    Attributes:
        contained: which class indices, bool [256].
        ignored: share of the pixels of the decoded masks that are ignored, 0 to 1.
    """

    contained: NDArray[np.bool_]
    ignored: float


def decode(file: Path, indices: NDArray[np.uint8], known: NDArray[np.bool_], fix: str) -> NDArray[np.uint8]:
    """Class indices of a mask file, [H, W].

    Args:
        file: an image of one 8-bit channel.
        indices: class index of every label, [256].
        known: which labels are allowed, [256].
        fix: how to fix another label, for the message.

    Raises:
        DataError: the file cannot be decoded, or contains an unknown label.
    """
    with _images.opened(file, ("PNG",)) as image:
        labels = np.asarray(image)
    if not known[labels].all():
        unknown = np.flatnonzero(np.bincount(labels.ravel(), minlength=256) * ~known)
        raise DataError(f"{file}: contains label {unknown[0]}, which is of no class; {fix}")
    classes: NDArray[np.uint8] = indices[labels]
    return classes


def census(files: Sequence[Path], indices: NDArray[np.uint8], known: NDArray[np.bool_], fix: str) -> Census:
    """The classes in mask files, of which no more are decoded once all classes are found; arguments as in `decode`.

    Raises:
        DataError: as in `decode`.
    """
    counts = np.zeros(256, dtype=np.int64)
    wanted = np.unique(indices[known])
    wanted = wanted[wanted != IGNORE_INDEX]
    with contextlib.closing(_images.map_files(lambda file: _count(decode(file, indices, known, fix)), files)) as parts:
        for part in parts:
            counts += part
            if counts[wanted].all():
                break
    total = int(counts.sum())
    contained = counts > 0
    contained[IGNORE_INDEX] = False
    return Census(contained, int(counts[IGNORE_INDEX]) / total)


def _count(classes: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.bincount(classes.ravel(), minlength=256)
