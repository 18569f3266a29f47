"""Images and masks kept as decoded arrays, in a folder that the user names: a part of one is read without decoding.

A pair of Cityscapes takes 8 MB, and the whole set 29 GB. Arrays of files that have changed are not used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import _files
from ._errors import DataError

VARIABLE = "KDBENCH_DECODED"
"""Environment variable that names the folder."""

VERSION = 1
CHANNELS = 4  # RGB and class index
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def kept(files: tuple[Path, Path], how: bytes, decode: Callable[[], Pair]) -> Pair:
    """An image, RGB [H, W, 3], and its class indices [H, W]; decoded by `decode` where they are not kept yet.

    Args:
        files: image and mask.
        how: what else the arrays depend on.
        decode: reads both.

    Raises:
        DataError: the arrays cannot be written; or what `decode` raises.
    """
    folder = os.environ.get(VARIABLE, "")
    if not folder:
        return decode()
    file = Path(folder) / f"{_key(files, how)}.npy"
    array = _read(file)
    if array is None:
        image, classes = decode()
        _write(file, np.concatenate([image, classes[..., None]], axis=2))
        return image, classes
    return array[..., :3], array[..., 3]


def _key(files: tuple[Path, Path], how: bytes) -> str:
    """Of names, sizes and times of the files, so that others have other arrays.

    Raises:
        DataError: one is not there.
    """
    digest = hashlib.sha256(b"%d\0" % VERSION + how)
    for file in files:
        try:
            found = os.stat(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); copy or download it again") from error
        digest.update(b"\0%s\0%d\0%d" % (os.fsencode(file.absolute()), found.st_size, found.st_mtime_ns))
    return digest.hexdigest()[:32]


def _read(file: Path) -> NDArray[np.uint8] | None:
    """The array in a file, which is read where it is used; None where there is none that is whole."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != CHANNELS:
        return None
    return np.asarray(array)


def _write(file: Path, array: NDArray[np.uint8]) -> None:
    try:
        with _files.written_whole(file) as stream:
            np.save(stream, array)
    except OSError as error:
        raise DataError(
            f"{file.parent}: decoded images cannot be written ({error.strerror}); free some space, or name another "
            f"folder, or none, with {VARIABLE}"
        ) from error
