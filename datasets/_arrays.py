"""Small images in one .npz file: `x_train`, `y_train`, `x_test`, `y_test` and optionally the class names.

The layout is that of Keras; class names are in `class_names`, or in `fine_names` for CIFAR-100.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _files
from ._text import counted
from .base import ArraySplit, DataError, ImageSet

Channels = tuple[float, float, float]
REQUIRED = ("x_train", "y_train", "x_test", "y_test")
NAMES = ("class_names", "fine_names")
_LAYOUT = (
    "an .npz file holds x_train and x_test, uint8 [N, H, W, 3], y_train and y_test, whole numbers [N] or [N, 1], and "
    "may hold class_names, strings [K]"
)
_ARRAY_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 16 + 10_000
"""What is read of an array to learn its shape and type; NumPy refuses longer headers, after reading them."""


class _ArrayError(ValueError):
    """An array is not as its file says; the message is a reason."""


class _Header(NamedTuple):
    """Shape and type of an array, as NumPy's own have them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


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
            f"{file}: is not a readable .npz file: {_reason(error)}; write or copy it again: {_LAYOUT}"
        ) from error


def _read_arrays(file: Path, archive: zipfile.ZipFile) -> dict[str, NDArray[Any]]:
    present = set(archive.namelist())
    if missing := [name for name in REQUIRED if f"{name}.npy" not in present]:
        raise DataError(f"{file}: array {missing[0]} is missing; {_LAYOUT}")
    names = [each for each in (*REQUIRED, *NAMES) if f"{each}.npy" in present]
    headers, arrays = {}, {}
    for name in names:
        with _named(file, name):
            headers[name] = _header(archive, f"{name}.npy")
    if sum(math.prod(header.shape) * header.dtype.itemsize for header in headers.values()) > _files.memory_budget():
        raise DataError(
            f"{file}: its arrays take more than the {_files.memory_budget() / 2**30:.3g} GiB of memory that a "
            "data set may have on this machine; give fewer images, or a folder of image files"
        )
    _check_forms(file, headers)
    for name in names:
        with _named(file, name), archive.open(f"{name}.npy") as stream:
            arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


@contextlib.contextmanager
def _named(file: Path, name: str) -> Iterator[None]:
    """Whatever goes wrong in the block is an error about this array."""
    try:
        yield
    except Exception as error:  # readers of damaged arrays raise almost anything
        raise DataError(
            f"{file}: array {name} cannot be read: {_reason(error)}; write or copy it again: {_LAYOUT}"
        ) from error


def _header(archive: zipfile.ZipFile, name: str) -> _Header:
    """Shape and type of an array by its header, by which NumPy allocates memory before it reads.

    Raises:
        _ArrayError: the file holds another number of bytes, or objects.
    """
    with archive.open(name) as stream:
        start = io.BytesIO(stream.read(_HEADER_BYTES))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(start)
    if dtype.hasobject:
        raise _ArrayError("it holds Python objects")
    stated, held = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - start.tell()
    if stated != held:
        raise _ArrayError(f"its header is of {counted(stated, 'byte')}, and {held} follow")
    return _Header(shape, dtype)


def _reason(error: Exception) -> str:
    """Why an array or its file cannot be read; other libraries' words are no sentences, and stay in the traceback."""
    if isinstance(error, _ArrayError):
        return str(error)
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, NotImplementedError | RuntimeError):
        return "it is encrypted, or compressed as NumPy does not do it"
    return "it is damaged, truncated or of another format"


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
    _check_forms(path, arrays)
    train, val = _split(path, arrays, "train"), _split(path, arrays, "test")
    names = _names(path, arrays, classes)
    if not names and int(train.labels.max()) >= len(train):
        raise DataError(
            f"{path}: y_train holds label {train.labels.max()} but {counted(len(train), 'image')}, and every class "
            "needs one; number the classes 0 to K - 1"
        )
    names = names or tuple(str(label) for label in range(int(train.labels.max()) + 1))
    _check_labels(path, "y_train", train.labels, len(names))
    _check_labels(path, "y_test", val.labels, len(names))
    empty = np.flatnonzero(np.bincount(train.labels, minlength=len(names)) == 0)
    if len(empty):
        raise DataError(
            f"{path}: y_train has no image of class {empty[0]} ({names[empty[0]]}), one of {len(empty)} such; "
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


def _check_forms(path: Path, arrays: Mapping[str, NDArray[Any] | _Header]) -> None:
    """Check types and shapes, of arrays or of their headers before they are read.

    Raises:
        DataError: names the first wrong one.
    """
    for which in ("train", "test"):
        _check_form(path, arrays[f"x_{which}"], arrays[f"y_{which}"], which)
    (height, width), (val_height, val_width) = (arrays[name].shape[1:3] for name in ("x_train", "x_test"))
    if (height, width) != (val_height, val_width):
        raise DataError(
            f"{path}: x_test holds {val_height}x{val_width} images but x_train {height}x{width}; give both one size"
        )
    for key in NAMES:
        names = arrays.get(key)
        if names is not None and (names.dtype.kind != "U" or len(names.shape) != 1):
            raise DataError(
                f"{path}: {key} is {names.dtype} {list(names.shape)} but must hold a string for each of the K "
                "classes; write it as np.array([...], dtype=str) or leave it out"
            )


def _check_form(path: Path, images: NDArray[Any] | _Header, labels: NDArray[Any] | _Header, which: str) -> None:
    if images.dtype != np.uint8:
        raise DataError(f"{path}: x_{which} is {images.dtype} but must be uint8, 0 to 255; convert it")
    if len(images.shape) != 4 or images.shape[-1] != 3 or 0 in images.shape[1:]:
        raise DataError(f"{path}: x_{which} has shape {list(images.shape)} but must have [N, H, W, 3]; reshape it")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{path}: y_{which} is {labels.dtype} but must hold whole numbers, 0 to K - 1; convert it")
    if len(labels.shape) != 1 and labels.shape[1:] != (1,):  # Keras has [N, 1]
        fix = "take np.argmax(labels, axis=1) of one-hot labels" if len(labels.shape) == 2 else "flatten it"
        raise DataError(f"{path}: y_{which} has shape {list(labels.shape)} but must have [N] or [N, 1]; {fix}")
    if images.shape[0] != labels.shape[0]:
        raise DataError(
            f"{path}: x_{which} holds {counted(images.shape[0], 'image')} but y_{which} "
            f"{counted(labels.shape[0], 'label')}; give one label an image"
        )
    if not images.shape[0]:
        raise DataError(f"{path}: x_{which} holds no image; add some")


def _split(path: Path, arrays: Mapping[str, NDArray[Any]], which: str) -> ArraySplit:
    """The images and labels of a split, whose types and shapes are checked."""
    images, labels = arrays[f"x_{which}"], arrays[f"y_{which}"].reshape(-1)
    if int(labels.max()) > np.iinfo(np.int32).max:
        raise DataError(f"{path}: y_{which} holds label {labels.max()}; number the classes 0 to K - 1")
    return ArraySplit(np.ascontiguousarray(images), labels.astype(np.int64))


def _names(path: Path, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> tuple[str, ...]:
    """The class names; empty if there are none."""
    key = next((array for array in NAMES if array in arrays), None)
    if key is None:
        return tuple(classes)
    names = tuple(str(name) for name in arrays[key])
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
            f"{path}: {key} holds {counted(len(names), 'name')} and differs from the {len(classes)} known ones from "
            f"name {i} on; restore the original file, or give this one with --data"
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
