"""Large image folders as they were listed and checked last, so that opening them again only looks at their folders.

An index is used while no folder has changed since: adding, removing and renaming files changes a folder's time. Writing
to a file in place does not; its size is compared when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from . import _files
from ._errors import DataError

FOLDER = "index"
VERSION = 1
LEAST = 5000  # files; fewer are listed in a moment
SETTLED = 2 * 10**9  # nanoseconds since the last change of a folder: file systems' clocks are coarse


class Names(Sequence[Path]):
    """Files below a folder, as paths that are made when they are asked for: an image folder may have millions.

    Args:
        folder: above them.
        names: relative to it, with forward slashes.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, place: int) -> Path: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Path, ...]: ...
    def __getitem__(self, place: int | slice) -> Path | tuple[Path, ...]:
        if isinstance(place, slice):
            return tuple(self.folder / name for name in self.names[place])
        return self.folder / self.names[place]

    def __iter__(self) -> Iterator[Path]:
        return (self.folder / name for name in self.names)


@dataclass(frozen=True)
class Split:
    """Files of a split.

    Attributes:
        folder: its name.
        names: relative to it.
        counts: files of each class.
        sizes: bytes of each file, int64 [N].
    """

    folder: str
    names: Sequence[str]
    counts: Sequence[int]
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class Index:
    """What opening an image folder has found.

    Attributes:
        classes: K names.
        train: training images.
        val: validation images.
        fingerprint: of the set.
        notices: on it.
    """

    classes: tuple[str, ...]
    train: Split
    val: Split
    fingerprint: str
    notices: tuple[str, ...]


def file_of(path: Path, root: Path) -> Path:
    """Where the index of an image folder is, below the folder of all data sets."""
    return root / FOLDER / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}.json"


def read(file: Path, path: Path) -> Index | None:
    """The index of `path`; None where there is none, it is not whole, or a folder has changed since."""
    try:
        content: dict[str, Any] = json.loads(_files.read_bytes(file))
        if content["version"] != VERSION or content["folders"] != states(path, content["folders"]):
            return None
        train, val = _split(content["train"]), _split(content["val"])
        return Index(tuple(content["classes"]), train, val, content["fingerprint"], tuple(content["notices"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # it is made again


def write(file: Path, index: Index, folders: dict[str, int]) -> str:
    """Keep the index of a large folder; returns why it could not be kept, if so.

    Args:
        file: of the index.
        index: its content.
        folders: times of all folders, by relative name, of before they were listed.
    """
    names = [*index.train.names, *index.val.names]
    if len(names) < LEAST or time.time_ns() - max(folders.values()) < SETTLED or any("\n" in name for name in names):
        return ""
    content = {
        "version": VERSION,
        "folders": folders,
        "classes": index.classes,
        "train": _as_json(index.train),
        "val": _as_json(index.val),
        "fingerprint": index.fingerprint,
        "notices": index.notices,
    }
    try:
        with _files.written_whole(file) as stream:
            stream.write(json.dumps(content).encode())
    except OSError as error:
        return f"{file}: cannot be written ({error.strerror}), so that each job lists the images again"
    return ""


def states(path: Path, folders: Sequence[str] | dict[str, int]) -> dict[str, int]:
    """The times at which folders below `path` were changed last, nanoseconds.

    Raises:
        OSError: one is not there.
    """
    return {name: os.stat(path / name).st_mtime_ns for name in folders}


def check_size(file: Path, size: int) -> None:
    """Compare a file with what it was when its folder was listed.

    Raises:
        DataError: it has another size, or is not there.
    """
    try:
        found = os.stat(file).st_size
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); copy or download the image again") from error
    if found != size:
        raise DataError(
            f"{file}: has {found} bytes and had {size} when its folder was listed; put back the image, or "
            f"`touch {file.parent}`, so that it is listed again"
        )


def _split(content: dict[str, Any]) -> Split:
    names = content["names"].split("\n")
    sizes = np.array(content["sizes"], dtype=np.int64)
    if not len(names) == len(sizes) == sum(content["counts"]):
        raise ValueError("not whole")
    return Split(content["folder"], names, content["counts"], sizes)


def _as_json(split: Split) -> dict[str, Any]:
    names = "\n".join(split.names)
    return {"folder": split.folder, "names": names, "counts": list(split.counts), "sizes": split.sizes.tolist()}
