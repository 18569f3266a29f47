"""Image files as arrays of small images of one size, which networks for small images train on.

Each image is cut to a square around its center and resized. They are decoded once: the arrays are kept in
`small_images/` under the folder of data sets, and are written again when an image file changes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from . import _files, _images, _preparation
from ._text import counted
from .base import ArraySplit, DataError, FileSplit, ImageSet

FOLDER = "small_images"
LARGEST = 512  # pixels
_DRAFT = 4  # JPEG files are decoded at the least scale that has this many times the pixels, on each side
_INTERVAL = 10.0  # seconds between lines of progress
_VERSION = 1


def as_arrays(data: ImageSet, pixels: int, root: Path) -> ImageSet:
    """The images of a folder as arrays [N, pixels, pixels, 3]; all else is that of the folder.

    Args:
        data: a set of image files.
        pixels: side of the images.
        root: folder of all data sets.

    Raises:
        DataError: an image cannot be decoded, the arrays need more memory than there is for data, or cannot be written.
    """
    if isinstance(pixels, bool) or not isinstance(pixels, int) or not 1 <= pixels <= LARGEST:
        raise DataError(f"data option pixels={pixels!r}: must be a whole number of pixels, 1 to {LARGEST}")
    splits = {"train": data.train, "val": data.val}
    files = {name: split for name, split in splits.items() if isinstance(split, FileSplit)}
    assert len(files) == len(splits), "arrays have a size of their own"
    _check_memory(data, pixels)
    folder = root / FOLDER / f"{data.fingerprint}-{pixels}"
    expected = {"version": _VERSION, "pixels": pixels, "state": _state(files)}
    prepared = _preparation.prepare(folder, expected, lambda empty: _write(empty, files, pixels, data.path))
    train, val = (ArraySplit(_read(folder / f"{name}.npy"), split.labels) for name, split in files.items())
    notice = f"{data.path}: images are cut to a square around their center and resized to {pixels}x{pixels} pixels"
    return replace(data, train=train, val=val, notices=(*data.notices, notice, *prepared))


def _check_memory(data: ImageSet, pixels: int) -> None:
    images, budget = len(data.train) + len(data.val), _files.memory_budget()
    if 3 * pixels**2 * images > budget:
        raise DataError(
            f"{data.path}: {counted(images, 'image')} of {pixels}x{pixels} pixels take more than the "
            f"{budget / 2**30:.3g} GiB of memory that a data set may have on this machine; use a table whose recipe "
            "reads image files, such as dist/imagenet at scale full, or give fewer images"
        )


def _state(splits: dict[str, FileSplit]) -> str:
    """Changes when an image file does: a hash of paths, sizes and times."""
    digest = hashlib.sha256()
    for split in splits.values():
        for file in split.files:
            found = file.stat()
            digest.update(f"{os.fsencode(file)!r}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _write(folder: Path, splits: dict[str, FileSplit], pixels: int, path: Path) -> str:
    """Decode every image into files of arrays, of which only what is being written is in memory."""
    digest, done, reported = hashlib.sha256(), 0, time.monotonic()
    count = sum(len(split) for split in splits.values())
    for name, split in splits.items():
        shape = (len(split), pixels, pixels, 3)
        stored: Any = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)
        for i, image in enumerate(_images.map_files(lambda file: small(file, pixels), split.files)):
            stored[i] = image
            digest.update(image.data)
            done += 1
            if time.monotonic() - reported > _INTERVAL:
                reported = time.monotonic()
                print(f"{path}: {done} of {counted(count, 'image')} read", file=sys.stderr, flush=True)
        stored.flush()
    return digest.hexdigest()


def small(file: Path, pixels: int) -> NDArray[np.uint8]:
    """The center of an image, uint8 [pixels, pixels, 3].

    Raises:
        DataError: it cannot be decoded.
    """
    with _images.opened(file) as image:
        image.draft("RGB", (_DRAFT * pixels, _DRAFT * pixels))
        whole = _images.rgb(file, image)
    return np.asarray(ImageOps.fit(whole, (pixels, pixels), Image.Resampling.BICUBIC))


def _read(file: Path) -> NDArray[np.uint8]:
    try:
        array: NDArray[np.uint8] = np.load(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); remove its folder, and it is written again") from error
    return array
