"""Folders of images: `train/<class>/<image>` and `val/<class>/<image>`, as ImageNet lies on disk.

Classes are the names of the folders and labels their places in sorted order, the rule of torchvision's `ImageFolder`.
Hidden files and folders are left out, and so are files that are no images by their name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import _images
from .base import DataError, FileSplit, ImageSet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for every folder: our choice
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LAYOUT = "train/<class>/ and val/<class>/ (or test/<class>/) with .jpg, .jpeg, .png, .webp or .bmp files"
_THREADS, _PART = 16, 500  # looking at a file is waiting for the disk; a thread takes that many files at once


@dataclass
class _Scan:
    """What lies in the class folders of one split."""

    folder: Path
    images: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # class: name relative to it, bytes
    others: list[str] = field(default_factory=list)

    @property
    def notices(self) -> tuple[str, ...]:
        if not self.others:
            return ()
        return (f"{self.folder}: {len(self.others)} files are no images (first: {min(self.others)}); left out",)


def open_folder(path: Path, name: str = "") -> ImageSet:
    """The image folder at `path`; both ends of every file are read, and those that do not end as they should decoded.

    Args:
        path: holds `train/` and `val/`, or `test/` where there is no `val/`.
        name: what results call it; the folder's own name by default.

    Raises:
        DataError: a folder, a class or an image is missing, or an image is broken; names it.
    """
    if (path / "annotations").is_dir() and any((path / "annotations").glob("instances_*.json")):
        raise DataError(
            f"{path}: is a COCO folder, which has boxes and no image classes; name it to a detection table, or give "
            f"an image folder: {LAYOUT}"
        )
    train_folder = path / "train"
    val_folder = path / "val" if (path / "val").is_dir() else path / "test"
    for folder, wanted in ((train_folder, "train"), (val_folder, "val")):
        if not folder.is_dir():
            raise DataError(f"{path / wanted}: missing; an image folder holds {LAYOUT}")
    train, val = _scan(train_folder), _scan(val_folder)
    _check_classes(train, val)
    splits = _split(train), _split(val)
    for split in splits:
        _look(split)
    return ImageSet(
        name=name or path.resolve().name,
        path=path,
        classes=tuple(train.images),
        train=splits[0],
        val=splits[1],
        mean=MEAN,
        std=STD,
        fingerprint=_fingerprint(train, val),
        epoch_images=len(splits[0]),
        notices=(*train.notices, *val.notices),
    )


def _scan(folder: Path) -> _Scan:
    """Every class folder in sorted order, and its images in sorted order."""
    scan = _Scan(folder)
    try:
        classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        for name in classes:
            found = list(_files(folder / name))
            scan.images[name] = sorted((file, size) for file, size in found if file.lower().endswith(SUFFIXES))
            scan.others += [f"{name}/{file}" for file, _ in found if not file.lower().endswith(SUFFIXES)]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); allow reading it") from error
    if not classes:
        loose = sum(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())
        found_here = f"{loose} images but no class folder" if loose else "no class folder"
        raise DataError(f"{folder}: holds {found_here}; sort the images into one folder for each class: {LAYOUT}")
    if not any(scan.images.values()):
        raise DataError(f"{folder}: no image in any of {len(classes)} class folders; an image folder holds {LAYOUT}")
    return scan


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Every file under `folder`: its name relative to it with forward slashes, and its bytes."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    pending.append(f"{prefix}{entry.name}/")
                elif entry.is_file():
                    yield f"{prefix}{entry.name}", entry.stat().st_size
                else:
                    raise DataError(f"{entry.path}: is no file, or a link to nothing; restore or remove it")


def _check_classes(train: _Scan, val: _Scan) -> None:
    for scan in (train, val):
        for name, images in scan.images.items():
            if not images:
                raise DataError(f"{scan.folder / name}: class without images; add some, or remove the class everywhere")
    for scan, other in ((train, val), (val, train)):
        missing = sorted(set(other.images) - set(scan.images))
        if missing:
            raise DataError(
                f"{scan.folder / missing[0]}: missing, one of {len(missing)} classes that {other.folder.name}/ has; "
                f"add it, or remove the class from {other.folder}"
            )
    if len(train.images) < 2:
        raise DataError(f"{train.folder}: holds one class alone; at least two are needed")


def _split(scan: _Scan) -> FileSplit:
    files = tuple(scan.folder / name / file for name, images in scan.images.items() for file, _ in images)
    counts = [len(images) for images in scan.images.values()]
    return FileSplit(files, np.repeat(np.arange(len(counts), dtype=np.int64), counts))


def _look(split: FileSplit) -> None:
    """Decode every file that does not end as it should; the first in order that cannot be is the error."""
    parts = [split.files[start : start + _PART] for start in range(0, len(split), _PART)]
    with ThreadPoolExecutor(_THREADS) as pool:
        whole = [each for part in pool.map(_looks_whole, parts) for each in part]
    for i in np.flatnonzero(~np.array(whole)):
        split.load(int(i))


def _looks_whole(files: tuple[Path, ...]) -> list[bool]:
    return [_images.looks_whole(file) for file in files]


def _fingerprint(*scans: _Scan) -> str:
    """16 hex digits of the sha256 over the classes, names and sizes of all images; where the folder lies is no part."""
    digest = hashlib.sha256()
    for split, scan in zip(("train", "val"), scans, strict=True):
        for name, images in scan.images.items():
            digest.update("".join(f"{split}/{name}/{file}\0{size}\n" for file, size in images).encode())
    return digest.hexdigest()[:16]
