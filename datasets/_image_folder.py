"""Image folders in the layout of ImageNet: `train/<class>/<image>` and `val/<class>/<image>`.

Classes are the names of the folders, labels their positions in sorted order, as in torchvision's `ImageFolder`, and so
are images in folders below, which belong to the class above them. Images of a class are in the order of their names
relative to its folder. Hidden files and folders, and files without an image suffix, are left out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from . import _bit_depth, _files, _images, _index, _layouts
from ._text import counted
from .base import DataError, FileSplit, ImageSet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for every folder: our choice
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LAYOUT = "train/<class>/ and val/<class>/ (or valid/, validation/ or test/) with .jpg, .jpeg, .png, .webp or .bmp files"


@dataclass
class _Scan:
    """The files in the class folders of one split."""

    folder: Path
    images: dict[str, list[tuple[str, int]]] = field(
        default_factory=dict
    )  # class: (name relative to its folder, bytes)
    ignored: list[str] = field(default_factory=list)
    listed: dict[str, int] = field(default_factory=dict)  # times of its folders, by name relative to the set's

    @property
    def notices(self) -> tuple[str, ...]:
        lines = []
        nested = [f"{name}/{file}" for name, images in self.images.items() for file, _ in images if "/" in file]
        if nested:
            images = counted(len(nested), "image is", "images are")
            lines.append(f"{self.folder}: {images} in folders below the class folders (first: {nested[0]}); read")
        if self.ignored:
            files = counted(len(self.ignored), "file is not an image", "files are not images")
            lines.append(f"{self.folder}: {files} (first: {min(self.ignored)}); left out")
        return tuple(lines)


def open_folder(path: Path, name: str = "", root: Path | None = None) -> ImageSet:
    """The image folder at `path`; the ends of every file are checked, and files that seem truncated are decoded.

    Args:
        path: a folder with `train/` and `val/`; if there is no `val/`, with `valid/`, `validation/` or `test/`.
        name: name in result rows; the name of the folder by default.
        root: folder of all data sets, where the index of a large one is kept; None for none.

    Raises:
        DataError: a folder, a class or an image is missing, or an image is broken.
    """
    if (layout := _layouts.detect(path)) is not None:
        raise DataError(
            f"{path}: is {layout.description}, which has boxes and no image classes; use a detection table, or give "
            f"an image folder: {LAYOUT}"
        )
    kept = _index.file_of(path, root) if root is not None else None
    found = _index.read(kept, path) if kept is not None else None
    return _image_set(path, name, found or _listed_anew(path, kept))


def _image_set(path: Path, name: str, found: _index.Index) -> ImageSet:
    def split(of: _index.Split) -> FileSplit:
        labels = np.repeat(np.arange(len(of.counts), dtype=np.int64), of.counts)
        return FileSplit(_index.Names(path / of.folder, of.names), labels, of.sizes)

    return ImageSet(
        name=name or _files.name_of(path),
        path=path,
        classes=found.classes,
        train=split(found.train),
        val=split(found.val),
        mean=MEAN,
        std=STD,
        fingerprint=found.fingerprint,
        epoch_images=len(found.train.names),
        notices=found.notices,
    )


def _listed_anew(path: Path, kept: Path | None) -> _index.Index:
    """The files of a folder, listed and checked; its index is kept where it is large.

    Raises:
        DataError: a folder, a class or an image is missing, or an image is broken.
    """
    above = _time_of(path)
    val_name = _layouts.validation_folder(path)
    train_folder, val_folder = path / "train", path / val_name
    for folder, split in ((train_folder, "train"), (val_folder, "val")):
        if not folder.is_dir():
            raise DataError(f"{path / split}: missing; an image folder has {LAYOUT}")
    train, val = _scan(train_folder), _scan(val_folder)
    _check_classes(train, val)
    notices = [*_layouts.validation_notices(path, val_name), *train.notices, *val.notices]
    for scan in (train, val):
        files = _index.Names(scan.folder, _split(scan).names)
        _check_files(files)
        notices += _bit_depth.in_folder(str(scan.folder), files)
    found = _index.Index(tuple(train.images), _split(train), _split(val), _fingerprint(train, val), tuple(notices))
    if kept is not None and (problem := _index.write(kept, found, {".": above, **train.listed, **val.listed})):
        return replace(found, notices=(*found.notices, problem))
    return found


def _scan(folder: Path) -> _Scan:
    """All class folders and their images, both in sorted order."""
    scan = _Scan(folder, listed={folder.name: _time_of(folder)})
    try:
        classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        for name in classes:
            if not _files.is_text(name):
                raise DataError(f"{folder}: the class folder {name!r} has a name that is not UTF-8; rename it")
            files = list(_listed(folder / name, scan.listed))
            scan.images[name] = sorted((file, size) for file, size in files if file.lower().endswith(SUFFIXES))
            scan.ignored += [f"{name}/{file}" for file, _ in files if not file.lower().endswith(SUFFIXES)]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); allow reading it") from error
    if not classes:
        images = sum(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())
        content = f"{counted(images, 'image')} but no class folder" if images else "no class folder"
        raise DataError(f"{folder}: holds {content}; sort the images into one folder for each class: {LAYOUT}")
    if not any(scan.images.values()):
        raise DataError(
            f"{folder}: no image in any of {counted(len(classes), 'class folder')}; an image folder has {LAYOUT}"
        )
    return scan


def _listed(folder: Path, times: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Every visible file under a class folder: relative name with forward slashes, and size in bytes.

    Adds the time of each folder, by its name relative to the set's.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        times[f"{folder.parent.name}/{folder.name}/{prefix}"] = _time_of(folder / prefix)
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if entry.is_symlink() and Path(folder / prefix).resolve().is_relative_to(Path(entry).resolve()):
                        raise DataError(f"{entry.path}: is a link to a folder above it, without end; remove it")
                    pending.append(f"{prefix}{entry.name}/")
                elif entry.is_file():
                    yield f"{prefix}{entry.name}", entry.stat().st_size
                else:
                    raise DataError(f"{entry.path}: is not a file, or a broken link; restore or remove it")


def _check_classes(train: _Scan, val: _Scan) -> None:
    for scan in (train, val):
        for name, images in scan.images.items():
            if not images:
                raise DataError(
                    f"{scan.folder / name}: class without images; add images, or remove the class from both splits"
                )
    for scan, reference in ((train, val), (val, train)):
        missing = sorted(set(reference.images) - set(scan.images))
        if missing:
            raise DataError(
                f"{scan.folder / missing[0]}: missing, one of {counted(len(missing), 'class', 'classes')} that "
                f"{reference.folder.name}/ has; add it, or remove the class from {reference.folder}"
            )
    if len(train.images) < 2:
        raise DataError(f"{train.folder}: holds a single class; at least two are needed")


def _time_of(folder: Path) -> int:
    """When a folder was changed last, nanoseconds; 0 where that is not known, which is no index's."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _split(scan: _Scan) -> _index.Split:
    names = [f"{name}/{file}" for name, images in scan.images.items() for file, _ in images]
    sizes = np.array([size for images in scan.images.values() for _, size in images], dtype=np.int64)
    return _index.Split(scan.folder.name, names, [len(images) for images in scan.images.values()], sizes)


def _check_files(files: Sequence[Path]) -> None:
    """Decode every file that seems truncated; the first that cannot be decoded is the error."""
    complete = list(_images.map_files(_images.is_complete, files))
    for i in np.flatnonzero(~np.array(complete)):
        _images.decode(files[int(i)])


def _fingerprint(*scans: _Scan) -> str:
    """16 hex digits of the sha256 over the classes, relative names and sizes of all images."""
    digest = hashlib.sha256()
    for split, scan in zip(("train", "val"), scans, strict=True):
        for name, images in scan.images.items():
            digest.update("".join(f"{split}/{name}/{file}\0{size}\n" for file, size in images).encode())
    return digest.hexdigest()[:16]
