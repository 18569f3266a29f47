"""Small images in one .npz file: `x_train`, `y_train`, `x_test`, `y_test` and, if wanted, the class names.

The layout is Keras's; `fine_names` is CIFAR-100's word for the names, `class_names` anybody else's.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import ArraySplit, DataError, ImageSet

Channels = tuple[float, float, float]
NEEDED = ("x_train", "y_train", "x_test", "y_test")
NAMES = ("class_names", "fine_names")
_HOLDS = (
    "an .npz file holds x_train and x_test, uint8 [N, H, W, 3], y_train and y_test, whole numbers [N], and may hold "
    "class_names, strings [K]"
)
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def open_npz(
    file: Path,
    name: str = "",
    classes: Sequence[str] = (),
    mean: Channels | None = None,
    std: Channels | None = None,
    notices: tuple[str, ...] = (),
) -> ImageSet:
    """The data set in an .npz file.

    Args:
        file: see the module.
        name: what results call it; the file's own by default.
        classes: K names that the file's have to be, where it has any; by default the file's, or the numbers.
        mean: of the training images; computed by default.
        std: likewise.
        notices: what was done to the file.

    Raises:
        DataError: the file or an array in it is missing or broken; names both.
    """
    return image_set(name or file.stem, file, read(file), classes, mean, std, notices)


def read(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays in the file that a data set consists of; not yet checked.

    Raises:
        DataError: it is no .npz file, or an array is missing or cannot be read.
    """
    array = ""
    arrays = {}
    try:
        with file.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise DataError(f"{file}: is no .npz file but a single array; {_HOLDS}")
            missing = [wanted for wanted in NEEDED if wanted not in content.files]
            if missing:
                raise DataError(f"{file}: array {missing[0]} is missing; {_HOLDS}")
            for array in (*NEEDED, *NAMES):
                if array in content.files:
                    arrays[array] = content[array]
    except DataError:
        raise
    except _UNREADABLE as error:
        where = f"array {array} cannot be read" if array else "is no readable .npz file"
        raise DataError(f"{file}: {where} ({error}); write or copy it again: {_HOLDS}") from error
    return arrays


def image_set(
    name: str,
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    classes: Sequence[str] = (),
    mean: Channels | None = None,
    std: Channels | None = None,
    notices: tuple[str, ...] = (),
) -> ImageSet:
    """The arrays of a data set, checked; arguments and errors are those of `open_npz`."""
    train = _split(path, arrays, "train")
    val = _split(path, arrays, "test")
    if train.images.shape[1:] != val.images.shape[1:]:
        (height, width), (other, wide) = train.images.shape[1:3], val.images.shape[1:3]
        raise DataError(f"{path}: x_test holds {other}x{wide} images but x_train {height}x{width}; give both one size")
    names = _names(path, arrays, classes) or tuple(str(label) for label in range(int(train.labels.max()) + 1))
    _check_labels(path, "y_train", train.labels, len(names))
    _check_labels(path, "y_test", val.labels, len(names))
    empty = np.flatnonzero(np.bincount(train.labels, minlength=len(names)) == 0)
    if len(empty):
        raise DataError(
            f"{path}: y_train has no image of class {empty[0]} ({names[empty[0]]}), one of {len(empty)} such classes; "
            "number the classes without a gap or add images"
        )
    if mean is None or std is None:
        mean, std = mean_and_std(path, train.images)
    return ImageSet(
        name=name,
        path=path,
        classes=names,
        train=train,
        val=val,
        mean=mean,
        std=std,
        fingerprint=fingerprint(train, val),
        epoch_images=len(train),
        notices=notices,
    )


def fingerprint(*splits: ArraySplit) -> str:
    """16 hex digits of the sha256 over images and labels.

    The order of the samples does not count, so one data set has one fingerprint in whatever file it lies; which sample
    stands at which position, and so what one seed draws, may still differ from file to file.
    """
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr(split.images.shape).encode())
        pairs = zip(split.images, split.labels.astype("<i8"), strict=True)
        digest.update(b"".join(sorted(_sample_digest(image, label) for image, label in pairs)))
    return digest.hexdigest()[:16]


def mean_and_std(path: Path, images: NDArray[np.uint8]) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel in 0..1 of uint8 [N, H, W, 3], exact but for the last rounding.

    Raises:
        DataError: a channel is the same in all pixels, which no normalisation can divide by.
    """
    total, squares = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    for start in range(0, len(images), 1000):
        part = images[start : start + 1000].astype(np.uint32)
        total += part.sum(axis=0, dtype=np.int64).sum(axis=(0, 1))
        squares += (part * part).sum(axis=0, dtype=np.int64).sum(axis=(0, 1))
    count = images.size // 3
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    if (variance < 1e-6).any():
        raise DataError(f"{path}: x_train has one value in all pixels of a channel; fill it with images")
    return _channels(mean / 255), _channels(np.sqrt(variance) / 255)


def _split(path: Path, arrays: Mapping[str, NDArray[Any]], which: str) -> ArraySplit:
    images, labels = arrays[f"x_{which}"], arrays[f"y_{which}"]
    if images.dtype != np.uint8:
        raise DataError(f"{path}: x_{which} is {images.dtype} but must be uint8, 0 to 255; convert it")
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:]:
        raise DataError(f"{path}: x_{which} has shape {list(images.shape)} but must have [N, H, W, 3]; reshape it")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{path}: y_{which} is {labels.dtype} but must hold whole numbers, 0 to K - 1; convert it")
    if labels.ndim != 1:
        raise DataError(f"{path}: y_{which} has shape {list(labels.shape)} but must have [N]; flatten it")
    if len(images) != len(labels):
        raise DataError(
            f"{path}: x_{which} holds {len(images)} images but y_{which} {len(labels)} labels; give one label an image"
        )
    if not len(images):
        raise DataError(f"{path}: x_{which} holds no image; add some")
    if int(labels.max()) > np.iinfo(np.int32).max:
        raise DataError(f"{path}: y_{which} holds label {labels.max()}; number the classes 0 to K - 1")
    return ArraySplit(np.ascontiguousarray(images), labels.astype(np.int64))


def _names(path: Path, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> tuple[str, ...]:
    """The class names; empty if nobody says any."""
    given = next((array for array in NAMES if array in arrays), None)
    if given is None:
        return tuple(classes)
    found = arrays[given]
    if found.dtype.kind != "U" or found.ndim != 1 or len(set(found.tolist())) != len(found):
        raise DataError(
            f"{path}: {given} is {found.dtype} {list(found.shape)} but must hold a different string for each of the K "
            "classes; write it as np.array([...], dtype=str) or leave it out"
        )
    names = tuple(str(name) for name in found)
    if classes and names != tuple(classes):
        i = next((i for i, pair in enumerate(zip(names, classes, strict=False)) if pair[0] != pair[1]), len(classes))
        raise DataError(
            f"{path}: {given} holds {len(names)} names and differs from the {len(classes)} known ones from name {i} "
            "on; restore the original file, or give this one with --data"
        )
    return names


def _check_labels(path: Path, array: str, labels: NDArray[np.int64], count: int) -> None:
    if count < 2:
        raise DataError(f"{path}: {array} knows one class alone; at least two are needed")
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if len(wrong):
        raise DataError(
            f"{path}: {array} holds label {labels[wrong[0]]} at position {wrong[0]} but there are {count} classes; "
            f"labels are 0 to {count - 1}"
        )


def _sample_digest(image: NDArray[np.uint8], label: np.int64) -> bytes:
    digest = hashlib.sha256(image.data)
    digest.update(label.tobytes())
    return digest.digest()


def _channels(values: NDArray[np.float64]) -> Channels:
    red, green, blue = values.tolist()
    return red, green, blue
