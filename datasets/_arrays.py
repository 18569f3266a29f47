"""Small images in one .npz file: `x_train`, `y_train`, `x_test`, `y_test` and optionally the class names.

The layout is that of Keras; class names are in `class_names`, or in `fine_names` for CIFAR-100.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _files
from .base import ArraySplit, DataError, ImageSet

Channels = tuple[float, float, float]
REQUIRED = ("x_train", "y_train", "x_test", "y_test")
NAMES = ("class_names", "fine_names")
_LAYOUT = (
    "an .npz file holds x_train and x_test, uint8 [N, H, W, 3], y_train and y_test, whole numbers [N] or [N, 1], and "
    "may hold class_names, strings [K]"
)
_ARRAY_MAGIC = b"\x93NUMPY"


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
        file: in the layout of this module.
        name: name in result rows; the stem of the file by default.
        classes: K expected class names; by default those of the file, or numbers.
        mean: mean per channel of the training images; computed by default.
        std: standard deviation per channel of the training images; computed by default.
        notices: what was prepared.

    Raises:
        DataError: the file or an array in it is missing or broken.
    """
    return image_set(name or _files.name_of(file), file, read(file), classes, mean, std, notices)


def read(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a data set in the file, not checked.

    Raises:
        DataError: the file is not an .npz file, or an array is missing or cannot be read.
    """
    try:
        with _files.open_regular(file) as stream:
            if stream.read(len(_ARRAY_MAGIC)) == _ARRAY_MAGIC:
                raise DataError(f"{file}: is not an .npz file but a single array; {_LAYOUT}")
            stream.seek(0)
            with zipfile.ZipFile(stream) as archive:
                return _read_arrays(file, archive)
    except DataError:
        raise
    except Exception as error:  # readers of damaged archives raise almost anything
        raise DataError(
            f"{file}: is not a readable .npz file ({_reason(error)}); write or copy it again: {_LAYOUT}"
        ) from error


def _read_arrays(file: Path, archive: zipfile.ZipFile) -> dict[str, NDArray[Any]]:
    present = set(archive.namelist())
    if missing := [name for name in REQUIRED if f"{name}.npy" not in present]:
        raise DataError(f"{file}: array {missing[0]} is missing; {_LAYOUT}")
    arrays, left = {}, _files.memory_budget()
    for name in (each for each in (*REQUIRED, *NAMES) if f"{each}.npy" in present):
        try:
            left -= _stated_bytes(archive, f"{name}.npy")
            if left < 0:
                raise DataError(
                    f"{file}: its arrays take more than the {_files.memory_budget() / 2**30:.3g} GiB of memory that a "
                    "data set may have on this machine; give fewer images, or a folder of image files"
                )
            with archive.open(f"{name}.npy") as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
        except DataError:
            raise
        except Exception as error:  # readers of damaged arrays raise almost anything
            raise DataError(
                f"{file}: array {name} cannot be read ({_reason(error)}); write or copy it again: {_LAYOUT}"
            ) from error
    return arrays


def _stated_bytes(archive: zipfile.ZipFile, name: str) -> int:
    """Bytes of an array by its header, which NumPy allocates before it reads.

    Raises:
        ValueError: the file holds another number of bytes, or objects.
    """
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        stated, held = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if stated != held:
        raise ValueError(f"its header is of {stated} bytes, and {held} follow")
    return stated


def _reason(error: Exception) -> str:
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def image_set(
    name: str,
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    classes: Sequence[str] = (),
    mean: Channels | None = None,
    std: Channels | None = None,
    notices: tuple[str, ...] = (),
) -> ImageSet:
    """The data set of these arrays, checked; arguments and errors as in `open_npz`."""
    train = _split(path, arrays, "train")
    val = _split(path, arrays, "test")
    if train.images.shape[1:] != val.images.shape[1:]:
        (height, width), (val_height, val_width) = train.images.shape[1:3], val.images.shape[1:3]
        raise DataError(
            f"{path}: x_test holds {val_height}x{val_width} images but x_train {height}x{width}; give both one size"
        )
    names = _names(path, arrays, classes)
    if not names and int(train.labels.max()) >= len(train):
        raise DataError(
            f"{path}: y_train holds label {train.labels.max()} but {len(train)} images, and every class needs one; "
            "number the classes 0 to K - 1"
        )
    names = names or tuple(str(label) for label in range(int(train.labels.max()) + 1))
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

    Independent of the order of samples, so a data set has the same fingerprint in every file. The order, and therefore
    the batches of a seed, may differ between files.
    """
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr(split.images.shape).encode())
        pairs = zip(split.images, split.labels.astype("<i8"), strict=True)
        digest.update(b"".join(sorted(_sample_digest(image, label) for image, label in pairs)))
    return digest.hexdigest()[:16]


def mean_and_std(path: Path, images: NDArray[np.uint8]) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel in 0..1 of uint8 [N, H, W, 3], exact up to the last rounding.

    Raises:
        DataError: a channel is constant, so it cannot be normalized.
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
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras has them
        labels = labels[:, 0]
    if labels.ndim != 1:
        fix = "take np.argmax(labels, axis=1) of one-hot labels" if labels.ndim == 2 else "flatten it"
        raise DataError(f"{path}: y_{which} has shape {list(labels.shape)} but must have [N] or [N, 1]; {fix}")
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
    """The class names; empty if there are none."""
    key = next((array for array in NAMES if array in arrays), None)
    if key is None:
        return tuple(classes)
    array = arrays[key]
    if array.dtype.kind != "U" or array.ndim != 1:
        raise DataError(
            f"{path}: {key} is {array.dtype} {list(array.shape)} but must hold a string for each of the K classes; "
            "write it as np.array([...], dtype=str) or leave it out"
        )
    names = tuple(str(name) for name in array)
    for i, name in enumerate(names):
        if name in names[:i]:
            raise DataError(
                f"{path}: {key} names classes {names.index(name)} and {i} both {name!r}; rename one, or give their "
                "images one label"
            )
        if not name or not _files.is_text(name):
            raise DataError(f"{path}: {key} has {name!r} for class {i}; write a name without lone surrogates")
    if classes and names != tuple(classes):
        i = next((i for i, pair in enumerate(zip(names, classes, strict=False)) if pair[0] != pair[1]), len(classes))
        raise DataError(
            f"{path}: {key} holds {len(names)} names and differs from the {len(classes)} known ones from name {i} "
            "on; restore the original file, or give this one with --data"
        )
    return names


def _check_labels(path: Path, array: str, labels: NDArray[np.int64], count: int) -> None:
    if count < 2:
        raise DataError(f"{path}: {array} has a single class; at least two are needed")
    invalid = np.flatnonzero((labels < 0) | (labels >= count))
    if len(invalid):
        raise DataError(
            f"{path}: {array} holds label {labels[invalid[0]]} at position {invalid[0]} but there are {count} classes; "
            f"labels are 0 to {count - 1}"
        )


def _sample_digest(image: NDArray[np.uint8], label: np.int64) -> bytes:
    digest = hashlib.sha256(image.data)
    digest.update(label.tobytes())
    return digest.digest()


def _channels(values: NDArray[np.float64]) -> Channels:
    red, green, blue = values.tolist()
    return red, green, blue
