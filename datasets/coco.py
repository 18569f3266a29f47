"""COCO folders: the format, and COCO 2017 itself.

Images, boxes and classes for detection, read from the layout of COCO 2017 (Lin et al., Microsoft COCO, ECCV 2014,
https://cocodataset.org): `annotations/instances_train2017.json`, `annotations/instances_val2017.json`, `train2017/`,
`val2017/`. What is left out follows the loader that the papers trained with (mmdetection's `CocoDataset`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import _annotations, _images
from ._annotations import Annotations, Counts
from .base import KEPT_BYTES, DataError

Sample = tuple[Image.Image, NDArray[np.float32], NDArray[np.int64], int]
_LAYOUT = "annotations/instances_train*.json and instances_val*.json with image folders train*/ and val*/ beside"
_STANDARD_IMAGES = {"train": 118_287, "val": 5_000}
_STANDARD_CLASSES = 80


class CocoSplit:
    """The images of one split, in the annotation file's order.

    Attributes:
        name: "train" or "val".
        annotation_file: what the evaluator reads.
        image_folder: where the image files lie.
        counts: what the annotation file holds and what was left out.
    """

    def __init__(self, name: str, annotations: Annotations, image_folder: Path) -> None:
        self.name = name
        self.annotation_file = annotations.file
        self.image_folder = image_folder
        self.annotations = annotations
        self.counts: Counts = annotations.counts
        # Training skips images without any annotation, as `filter_empty_gt` does; an image with nothing but crowds or
        # dropped boxes stays, as pure background.
        keep = annotations.annotated if name == "train" else np.ones(self.counts.images, dtype=bool)
        self._rows: NDArray[np.int64] = np.flatnonzero(keep)
        self._small = 3 * int(annotations.sizes[self._rows].prod(axis=1).sum()) <= KEPT_BYTES
        self._kept: dict[int, Image.Image] = {}
        if not len(self._rows) or not self.counts.boxes:
            raise DataError(f"{self.annotation_file}: no object to use for {name}; add images with annotations")

    def __len__(self) -> int:
        """Number of images, N."""
        return len(self._rows)

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """The annotation file's ids of the images, int64 [N]."""
        return self.annotations.image_ids[self._rows]

    def path(self, i: int) -> Path:
        """The file of image `i`."""
        return self.image_folder / self.annotations.file_names[int(self._rows[i])]

    def load(self, i: int) -> Sample:
        """Image `i`: RGB image; boxes float32 [n, 4], x1 y1 x2 y2 in pixels; labels int64 [n], 0 to K - 1; image id.

        Raises:
            DataError: the image cannot be decoded or has another size than its annotation file says.
        """
        boxes, labels = self.objects(i)
        image = self._kept[i] if i in self._kept else self._decode(i)
        if self._small:
            self._kept[i] = image
        return image, boxes, labels, int(self.annotations.image_ids[self._rows[i]])

    def objects(self, i: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes [n, 4] and labels [n] of image `i` without decoding it; both are the caller's to change."""
        row = self._rows[i]
        here = slice(self.annotations.offsets[row], self.annotations.offsets[row + 1])
        return self.annotations.boxes[here].copy(), self.annotations.labels[here].copy()

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels, as its annotation file says."""
        width, height = self.annotations.sizes[self._rows[i]].tolist()
        return width, height

    def verify(self, full: bool = False) -> None:
        """Look at every image file.

        Args:
            full: decode every image; else read both ends of each file and decode only those that do not end as they
                should.

        Raises:
            DataError: names the first broken file.
        """
        for i in range(len(self)):
            if full or not _images.looks_whole(self.path(i)):
                self._decode(i)

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader of the results should know was left out or changed, one line each."""
        return tuple(self._notices())

    def _notices(self) -> Iterator[str]:
        counts, where = self.counts, self.annotation_file.name
        if counts.empty:
            fate = "left out of training" if self.name == "train" else "kept"
            yield f"{where}: {counts.empty} of {counts.images} images have no annotation; {fate}"
        if counts.crowds:
            yield f"{where}: {counts.crowds} crowd annotations are no training boxes"
        if counts.dropped:
            yield (
                f"{where}: {counts.dropped} boxes dropped for a side below 1 pixel or an area of 0 or less "
                f"(first: annotation {counts.first_dropped})"
            )
        if counts.clipped:
            yield (f"{where}: {counts.clipped} boxes clipped to their image (first: annotation {counts.first_clipped})")

    def _decode(self, i: int) -> Image.Image:
        return _images.decode(self.path(i), *self.size(i))


@dataclass(frozen=True)
class CocoFolder:
    """A detection data set on disk.

    Attributes:
        name: what results call it.
        path: the folder.
        classes: K names, in label order.
        category_ids: K ids that the annotation files use for them; ascending, gaps kept.
        train: images to learn from.
        val: images to evaluate on.
        identity: fixed fingerprint of a generated set; empty for files from elsewhere.
        preparation: notices from preparing the folder.
    """

    name: str
    path: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    train: CocoSplit
    val: CocoSplit
    identity: str = ""
    preparation: tuple[str, ...] = field(default=())

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell two data sets apart: annotation bytes, names and sizes of all listed image files.

        Independent of where the folder lies. Computed on first use, since it asks the size of every file.
        """
        return self.identity or _fingerprint(self.train, self.val)

    @property
    def notices(self) -> tuple[str, ...]:
        """How the folder was prepared and what was left out of its splits, one line each."""
        return (*self.preparation, *self.train.notices, *self.val.notices)

    @property
    def is_coco_2017(self) -> bool:
        """Whether this has as many images and classes as the real, whole COCO 2017."""
        images = {split.name: split.counts.images for split in (self.train, self.val)}
        return images == _STANDARD_IMAGES and len(self.classes) == _STANDARD_CLASSES


def present(root: Path) -> Path | None:
    """`root/coco`; None if it is not there."""
    return root / "coco" if (root / "coco").is_dir() else None


def open_coco(root: Path) -> CocoFolder:
    """COCO 2017 at `root/coco`.

    Raises:
        DataError: something is missing (the message says what to put where) or broken.
    """
    path = root / "coco"
    if not path.is_dir():
        raise DataError(
            f"{path}: there is no COCO 2017; unpack train2017.zip, val2017.zip and annotations_trainval2017.zip from "
            "https://cocodataset.org/#download there, or name another COCO folder with --data PATH"
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
    """Any folder in COCO format.

    Args:
        path: holds `annotations/instances_<split>.json` and the image folder `<split>/` of two splits.
        name: what results call it; the folder's own name by default.
        train: name of the training split, such as "train2017"; by default the only one that starts with "train".
        val: the same for validation.
        identity: fixed fingerprint of a generated set.
        preparation: notices from preparing the folder.

    Raises:
        DataError: files are missing, ambiguous or broken, or the two splits differ in their categories.
    """
    if not path.is_dir():
        raise DataError(f"{path}: is not a folder; put a COCO data set there: {_LAYOUT}")
    places = {kind: _place(path, kind, wanted) for kind, wanted in (("train", train), ("val", val))}
    return open_files(path, name or path.resolve().name, places, identity, preparation)


def open_files(
    path: Path,
    name: str,
    places: Mapping[str, tuple[Path, Path]],
    identity: str = "",
    preparation: tuple[str, ...] = (),
) -> CocoFolder:
    """A data set whose files lie anywhere.

    Args:
        path: what messages call it.
        name: what results call it.
        places: annotation file and image folder of "train" and "val".
        identity: fixed fingerprint of a generated set.
        preparation: notices from preparing it.

    Raises:
        DataError: files are missing or broken, or the two splits differ in their categories.
    """
    splits = {kind: _open_split(kind, *place) for kind, place in places.items()}
    ours, theirs = (split.annotations.categories for split in splits.values())
    if ours != theirs:
        differing = sorted(set(ours) ^ set(theirs))
        raise DataError(
            f"{splits['val'].annotation_file}: its categories differ from those of "
            f"{splits['train'].annotation_file.name}, first in {differing[0]}; list the same ids and names in both"
        )
    return CocoFolder(
        name=name,
        path=path,
        classes=tuple(label for _, label in ours),
        category_ids=tuple(category for category, _ in ours),
        identity=identity,
        preparation=preparation,
        **splits,
    )


def _place(path: Path, kind: str, wanted: str) -> tuple[Path, Path]:
    split = wanted or _only_split(path, kind)
    return path / "annotations" / f"instances_{split}.json", path / split


def _open_split(kind: str, annotation_file: Path, image_folder: Path) -> CocoSplit:
    if not image_folder.is_dir():
        raise DataError(f"{image_folder}: missing; put the images of {annotation_file.name} there")
    annotations = _annotations.read(annotation_file)
    try:
        present = set(_images.files_in(image_folder))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); allow reading it") from error
    missing = [name for name in annotations.file_names if name not in present]
    if missing:
        raise DataError(
            f"{image_folder / missing[0]}: missing, one of {len(missing)} of {len(annotations.file_names)} images that "
            f"{annotations.file.name} lists; put them there or remove them from the annotation file"
        )
    return CocoSplit(kind, annotations, image_folder)


def _only_split(path: Path, kind: str) -> str:
    found = sorted((path / "annotations").glob(f"instances_{kind}*.json"))
    if not found:
        raise DataError(f"{path}/annotations/instances_{kind}*.json: missing; a COCO folder holds {_LAYOUT}")
    if len(found) > 1:
        listed = ", ".join(file.name for file in found)
        raise DataError(f"{path}/annotations: {listed} all fit {kind}; keep one of them there and move the others away")
    return found[0].stem.removeprefix("instances_")


def _fingerprint(*splits: CocoSplit) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.annotations.digest.encode())
        for name in sorted(split.annotations.file_names):
            digest.update(f"{name}\0{(split.image_folder / name).stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
