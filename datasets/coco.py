"""COCO folders: the format, and COCO 2017 itself.

Images, boxes and classes for detection, read from the layout of COCO 2017 (Lin et al., Microsoft COCO, ECCV 2014,
https://cocodataset.org): `annotations/instances_train2017.json`, `annotations/instances_val2017.json`, `train2017/`,
`val2017/`. Images and boxes are left out as in the papers' loader (mmdetection's `CocoDataset`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import _annotations, _bit_depth, _file_names, _files, _images, _layouts, _orientation
from ._annotations import Annotations, Counts, ground_truth
from ._empty_classes import empty_classes
from ._orientation import Source, Survey
from ._text import counted
from .base import CACHE_BYTES, DataError

__all__ = ["CocoFolder", "CocoSplit", "detect", "ground_truth", "open_coco", "open_files", "open_folder", "present"]

Sample = tuple[Image.Image, NDArray[np.float32], NDArray[np.int64], int]
_LAYOUT = _layouts.COCO
_STANDARD_IMAGES = {"train": 118_287, "val": 5_000}
_STANDARD_CLASSES = 80
_SIZES = Source("annotation file says", "restore the original image or correct its width and height")


class CocoSplit:
    """The images of one split, in the annotation file's order.

    Attributes:
        name: "train" or "val".
        annotation_file: the file for the evaluator.
        image_folder: the folder of the image files.
        counts: numbers of images and annotations, and of those left out.
        replaced: file names of the annotation file, and the existing files that were found for them.
    """

    def __init__(
        self,
        name: str,
        annotations: Annotations,
        image_folder: Path,
        replaced: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.name = name
        self.replaced = replaced
        self.annotation_file = annotations.file
        self.image_folder = image_folder
        self.annotations = annotations
        self.counts: Counts = annotations.counts
        # Training skips images without any annotation, like `filter_empty_gt`; images that only have crowds or dropped
        # boxes are included as background.
        used = annotations.annotated if name == "train" else np.ones(self.counts.images, dtype=bool)
        self._rows: NDArray[np.int64] = np.flatnonzero(used)
        self._small = 3 * int(annotations.sizes[self._rows].prod(axis=1).sum()) <= CACHE_BYTES
        self._cache: dict[int, Image.Image] = {}
        if not len(self._rows) or not self.counts.boxes:
            raise DataError(_no_object(self.annotation_file, name, self.counts))

    def __len__(self) -> int:
        """Number of images, N."""
        return len(self._rows)

    @property
    def image_ids(self) -> NDArray[Any]:
        """The annotation file's ids of the images, whole numbers [N]."""
        return self.annotations.image_ids[self._rows]

    def path(self, i: int) -> Path:
        """The file of image `i`."""
        return self.image_folder / self.annotations.file_names[int(self._rows[i])]

    def load(self, i: int) -> Sample:
        """Image `i`: RGB image; boxes float32 [n, 4], x1 y1 x2 y2 in pixels; labels int64 [n], 0 to K - 1; image id.

        Raises:
            DataError: the image cannot be decoded or has another size than in the annotation file.
        """
        boxes, labels = self.objects(i)
        image = self._cache[i] if i in self._cache else self._decode(i)
        if self._small:
            self._cache[i] = image
        return image, boxes, labels, int(self.annotations.image_ids[self._rows[i]])

    def objects(self, i: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes [n, 4] and labels [n] of image `i` without decoding it; both are copies."""
        row = self._rows[i]
        rows = slice(self.annotations.offsets[row], self.annotations.offsets[row + 1])
        return self.annotations.boxes[rows].copy(), self.annotations.labels[rows].copy()

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels, from the annotation file."""
        width, height = self.annotations.sizes[self._rows[i]].tolist()
        return width, height

    def verify(self, full: bool = False) -> None:
        """Check every image file: its header says the annotated size.

        Args:
            full: decode all images; else read only both ends of each file and decode files that seem truncated.

        Raises:
            DataError: the first broken file, or the first of another size.
        """
        assert self.survey is not None
        for i in range(len(self)):
            if full or not _images.is_complete(self.path(i)):
                self._decode(i)

    @cached_property
    def survey(self) -> Survey:
        """What the images say of their orientation tags; computed on first use, since it opens every file."""
        files = [self.path(i) for i in range(len(self))]
        return _orientation.survey(files, self.annotations.sizes[self._rows], _SIZES)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Boxes of each class, int64 [K]."""
        return np.bincount(self.annotations.labels, minlength=len(self.annotations.categories))

    @property
    def notices(self) -> tuple[str, ...]:
        """What was left out or changed, one line each; opens every image file."""
        return tuple(self._notices())

    def _notices(self) -> Iterator[str]:
        counts, file = self.counts, self.annotation_file.name
        if self.replaced:
            given, existing = self.replaced[0]
            differ = "file name differs from the file", "file names differ from the files"
            yield f"{file}: {counted(len(self.replaced), *differ)} (first: {given!r} is {existing!r})"
        if counts.empty:
            use = "left out of training" if self.name == "train" else "included"
            images = counted(counts.images, "image")
            yield f"{file}: {counted(counts.empty, f'of {images} has', f'of {images} have')} no annotation; {use}"
        if counts.crowds:
            yield f"{file}: {counted(counts.crowds, 'crowd annotation is', 'crowd annotations are')} not used as boxes"
        if counts.dropped:
            yield (
                f"{file}: {counted(counts.dropped, 'box', 'boxes')} dropped, {' and '.join(counts.reasons)} "
                f"(first: {counts.first_dropped})"
            )
        if counts.clipped:
            boxes = counted(counts.clipped, "box clipped to its image", "boxes clipped to their image")
            yield f"{file}: {boxes} (first: annotation {counts.first_clipped})"
        if counts.computed_areas:
            annotations = counted(counts.computed_areas, "annotation has", "annotations have")
            yield f"{file}: {annotations} no area; it is computed from the box"
        yield from _orientation.notices(file, self.survey, [self.path(i) for i in range(len(self))], "boxes")
        yield from _bit_depth.notices(file, [self.path(i) for i in self.survey.deep])

    def _decode(self, i: int) -> Image.Image:
        return _orientation.decode(self.path(i), self.size(i), _SIZES, lambda: self.survey.applies)


@dataclass(frozen=True)
class CocoFolder:
    """A detection data set on disk.

    Attributes:
        name: name in result rows.
        path: the folder.
        classes: K names, in label order.
        category_ids: K ids of the classes in the annotation files, ascending, with gaps.
        train: training images.
        val: validation images.
        identity: fingerprint of a generated set; empty for other sets.
        preparation: notices from generating the folder.
        mean: mean per channel for normalization, RGB in 0..1; ImageNet's, which detectors' backbones were trained with.
        std: standard deviation per channel for normalization, likewise.
    """

    name: str
    path: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    train: CocoSplit
    val: CocoSplit
    identity: str = ""
    preparation: tuple[str, ...] = field(default=())
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the annotation bytes and of the names and sizes of all listed image files.

        Independent of the path of the folder. Computed on first use, since it reads the size of every file.
        """
        return self.identity or _fingerprint(self.train, self.val)

    @property
    def notices(self) -> tuple[str, ...]:
        """What was generated, left out of the splits or changed, one line each; opens every image file."""
        empty = [
            empty_classes(split.annotation_file.name, "box", self.classes, split.class_counts.tolist())
            for split in (self.train, self.val)
        ]
        return (*self.preparation, *self.train.notices, *self.val.notices, *filter(None, empty))

    @property
    def empty_classes(self) -> tuple[str, ...]:
        """Classes without a training box."""
        return tuple(name for name, count in zip(self.classes, self.train.class_counts, strict=True) if not count)

    @property
    def is_coco_2017(self) -> bool:
        """Whether the numbers of images and classes are those of the complete COCO 2017."""
        images = {split.name: split.counts.images for split in (self.train, self.val)}
        return images == _STANDARD_IMAGES and len(self.classes) == _STANDARD_CLASSES


def present(root: Path) -> Path | None:
    """`root/coco`; None if it is missing."""
    return root / "coco" if (root / "coco").is_dir() else None


def open_coco(root: Path) -> CocoFolder:
    """COCO 2017 at `root/coco`.

    Raises:
        DataError: files are missing (the message says where to put them) or broken.
    """
    path = root / "coco"
    if not path.is_dir():
        raise DataError(
            f"{path}: COCO 2017 is missing; unpack train2017.zip, val2017.zip and annotations_trainval2017.zip from "
            "https://cocodataset.org/#download there, or give another COCO folder with --data PATH"
        )
    return open_folder(path, name="coco", train="train2017", val="val2017")


def open_folder(
    path: Path,
    name: str = "",
    train: str = "",
    val: str = "",
    identity: str = "",
    preparation: tuple[str, ...] = (),
) -> CocoFolder:
    """The data set in a folder in COCO format.

    Args:
        path: a folder with `annotations/instances_<split>.json` and the image folder `<split>/` of two splits, or in
            one of the other layouts of `_layouts`.
        name: name in result rows; the name of the folder by default.
        train: name of the training split, such as "train2017"; by default the only one that starts with "train".
        val: name of the validation split, likewise.
        identity: fingerprint of a generated set.
        preparation: notices from generating the folder.

    Raises:
        DataError: files are missing, ambiguous or broken, or the two splits differ in their categories.
    """
    if not path.is_dir():
        raise DataError(f"{path}: is not a folder; put a COCO data set there: {_LAYOUT}")
    if train and val:
        folders = {"train": train, "val": val}
        files = {split: (path / "annotations" / f"instances_{f}.json", path / f) for split, f in folders.items()}
    else:
        layout = _layouts.detect(path)
        if layout is None:
            raise DataError(f"{path}/annotations/instances_train*.json: missing; a COCO folder has {_LAYOUT}")
        if layout.problem:
            raise DataError(layout.problem)
        files, preparation = layout.files, (*preparation, *layout.notices)
    return open_files(path, name or _files.name_of(path), files, identity, preparation)


def detect(path: Path) -> str | None:
    """What a folder of boxes is, such as "a Roboflow export"; None for other folders."""
    layout = _layouts.detect(path)
    return None if layout is None else layout.description


def open_files(
    path: Path,
    name: str,
    files: Mapping[str, tuple[Path, Path]],
    identity: str = "",
    preparation: tuple[str, ...] = (),
) -> CocoFolder:
    """The data set of these files.

    Args:
        path: name in messages.
        name: name in result rows.
        files: annotation file and image folder of "train" and "val".
        identity: fingerprint of a generated set.
        preparation: notices from generating the files.

    Raises:
        DataError: files are missing or broken, or the two splits differ in their categories.
    """
    splits = {split: _open_split(split, *paths) for split, paths in files.items()}
    categories, val_categories = (split.annotations.categories for split in splits.values())
    if categories != val_categories:
        differing = sorted(set(categories) ^ set(val_categories))
        raise DataError(
            f"{splits['val'].annotation_file}: its categories differ from those of "
            f"{splits['train'].annotation_file.name}, first in {differing[0]}; list the same ids and names in both"
        )
    return CocoFolder(
        name=name,
        path=path,
        classes=tuple(name for _, name in categories),
        category_ids=tuple(category for category, _ in categories),
        identity=identity,
        train=splits["train"],
        val=splits["val"],
        preparation=preparation,
    )


def _open_split(split: str, annotation_file: Path, image_folder: Path) -> CocoSplit:
    if not image_folder.is_dir():
        raise DataError(f"{image_folder}: missing; put the images of {annotation_file.name} there")
    annotations = _annotations.read(annotation_file)
    try:
        present = set(_images.files_in(image_folder))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); allow reading it") from error
    resolved = _file_names.resolve(annotations.file_names, present)
    if resolved.repeated:
        raise DataError(_same_file(annotations, *resolved.repeated))
    if resolved.missing:
        raise DataError(_missing_images(annotations, image_folder, resolved.missing, present))
    return CocoSplit(split, replace(annotations, file_names=resolved.names), image_folder, resolved.replaced)


def _missing_images(annotations: Annotations, folder: Path, missing: tuple[str, ...], present: set[str]) -> str:
    """The message for images that are listed and do not exist."""
    like = _file_names.nearest(missing[0], present)
    hint = f"; the most similar file there is {like!r}" if like else ""
    if not present:
        hint = "; the folder holds no file"
    return (
        f"{folder / missing[0]}: missing, one of {len(missing)} of {counted(len(annotations.file_names), 'image')} "
        f"that {annotations.file.name} lists{hint}; put them there, correct their file_name, or remove them from the "
        "annotation file"
    )


def _same_file(annotations: Annotations, i: int, j: int) -> str:
    """The message for two images of one file, of which each would have a part of its boxes."""
    one, other = annotations.image_ids[i], annotations.image_ids[j]
    names = dict.fromkeys((annotations.file_names[i], annotations.file_names[j]))
    return (
        f"{annotations.file}: images {one} and {other} are the same file ({' and '.join(map(repr, names))}); give "
        "their annotations to one of them and remove the other"
    )


def _no_object(file: Path, name: str, counts: Counts) -> str:
    """The message for a split without any box."""
    if not counts.crowds + counts.dropped:
        return f"{file}: no object for {name}; add images with annotations"
    reasons = [*counts.reasons, *([f"{counted(counts.crowds, 'crowd')} (iscrowd or ignore)"] if counts.crowds else [])]
    example = f"; the first is {counts.first_dropped}" if counts.first_dropped else ""
    annotations = counted(counts.crowds + counts.dropped, "annotation is", "annotations are")
    fix = "boxes are [x, y, width, height] in pixels"
    if counts.normalized:
        fix += ", and these look like fractions: multiply them by the image's width and height"
    return f"{file}: no object for {name}: all {annotations} left out, {', '.join(reasons)}{example}; {fix}"


def _fingerprint(*splits: CocoSplit) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.annotations.digest.encode())
        for name in sorted(split.annotations.file_names):
            digest.update(f"{name}\0{(split.image_folder / name).stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
