"""Variants of a classification set: fewer training images, a lower resolution for the student, noisy evaluation.

The subset and the noise are our choice and the same in every run. The fingerprint is that of the whole set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._text import counted
from .base import ArraySplit, DataError, FileSplit, ImageSet

_VALUES: dict[str, tuple[tuple[type, ...], Callable[[Any], bool], str]] = {
    "fraction": ((int, float), lambda x: 0 < x <= 1, "the share of training images to keep, above 0 and at most 1"),
    "noise": ((int, float), lambda x: 0 <= x <= 1, "the standard deviation of the noise in pixel units, 0 to 1"),
    "resolution": ((int,), lambda x: x > 0, "a whole number of pixels, 1 or more"),
}
NAMES = tuple(_VALUES)
_SUBSET, _NOISE = 1, 2  # seeds


def check(options: dict[str, Any]) -> None:
    """Check option values independently of the data set.

    Raises:
        DataError: a value of the wrong type or out of range.
    """
    for name, value in options.items():
        kinds, is_valid, expected = _VALUES[name]
        if isinstance(value, bool) or not isinstance(value, kinds) or not is_valid(value):
            raise DataError(f"data option {name}={value!r}: must be {expected}")


def apply(data: ImageSet, options: dict[str, Any]) -> ImageSet:
    """The variant of `data` for `options`, which `check` has accepted.

    Args:
        data: the whole set, which is not modified.
        options: fraction: share of each class's training images. noise: standard deviation of Gaussian noise on
            validation images, in units of 0..1. resolution: side to which the student's input is reduced.

    Raises:
        DataError: an option does not fit the data.
    """
    if "resolution" in options:
        data = _reduced(data, options["resolution"])
    if "noise" in options:
        data = replace(data, val=_noisy(data, options["noise"]))
        data = replace(data, notices=(*data.notices, f"val: Gaussian noise of deviation {options['noise']}"))
    if "fraction" in options:
        data = _fewer(data, options["fraction"])
    return data


def subset(labels: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """Positions, ascending, of a class-balanced share of `labels` [N]; a larger share contains every smaller one.

    Of each class's n samples it contains round(fraction n), halves rounded up, and at least one.
    """
    rng = np.random.default_rng(_SUBSET)
    chosen = []
    for label in np.unique(labels):
        positions = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(positions[: max(1, int(fraction * len(positions) + 0.5))])
    return np.sort(np.concatenate(chosen))


def _fewer(data: ImageSet, fraction: float) -> ImageSet:
    positions = subset(data.train.labels, fraction)
    notice = f"train: {len(positions)} of {counted(len(data.train), 'image')}, the same share of each class"
    train: ArraySplit | FileSplit
    if isinstance(data.train, ArraySplit):
        train = ArraySplit(data.train.images[positions], data.train.labels[positions])
    else:
        files, sizes = data.train.files, data.train.sizes
        chosen = None if sizes is None else sizes[positions]
        train = FileSplit(tuple(files[i] for i in positions), data.train.labels[positions], chosen)
    return replace(data, train=train, notices=(*data.notices, notice))


def _reduced(data: ImageSet, side: int) -> ImageSet:
    height, width = _arrays(data, "resolution").images.shape[1:3]
    if height != width or side > height or height % side:
        raise DataError(
            f"data option resolution={side}: must divide the side of the images of {data.path}, which are "
            f"{width}x{height} pixels"
        )
    return replace(data, resolution=side)


def _noisy(data: ImageSet, sigma: float) -> ArraySplit:
    """The validation images with noise, rounded to uint8; every sigma scales the same noise."""
    val = _arrays(data, "noise")
    rng = np.random.default_rng(_NOISE)
    images = np.empty_like(val.images)
    for start in range(0, len(images), 1000):
        part = val.images[start : start + 1000]
        noise = rng.standard_normal(part.shape, dtype=np.float32) * np.float32(255 * sigma)
        images[start : start + 1000] = np.clip(np.rint(part + noise), 0, 255)
    return ArraySplit(images, val.labels)


def _arrays(data: ImageSet, option: str) -> ArraySplit:
    if not isinstance(data.val, ArraySplit):
        raise DataError(
            f"data option {option}: needs images in arrays, and {data.path} is a folder of image files; remove "
            "it, or give an .npz file"
        )
    return data.val
