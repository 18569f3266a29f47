"""Mask files: decoded to class indices, with every label checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._errors import DataError
from ._images import UNDECODABLE


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
    try:
        with Image.open(file) as image:
            labels = np.asarray(image)
    except UNDECODABLE as error:
        raise DataError(f"{file}: cannot be decoded ({error}); copy or download the mask again") from error
    if not known[labels].all():
        unknown = np.flatnonzero(np.bincount(labels.ravel(), minlength=256) * ~known)
        raise DataError(f"{file}: contains label {unknown[0]}, which is of no class; {fix}")
    classes: NDArray[np.uint8] = indices[labels]
    return classes
