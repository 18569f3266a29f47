"""Annotation files in COCO format, checked and converted to arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _fields, _files, _voc
from .base import DataError

Mask = NDArray[np.bool_]
MIN_SIDE = 1.0  # pixels; the papers' loader (mmdetection) drops narrower boxes


@dataclass(frozen=True)
class Counts:
    """Numbers of images and annotations of a split, and of those left out.

    Attributes:
        images: images in the annotation file.
        empty: images without any annotation.
        boxes: objects in all images, without crowds and dropped boxes.
        crowds: annotations with `iscrowd` or `ignore`; not used as boxes, but read by the evaluator.
        thin: boxes dropped for a side below one pixel.
        without_area: further boxes dropped for an area of 0 or less.
        clipped: boxes that exceed their image and were clipped to it.
        computed_areas: annotations without `area`, which is computed from the box.
        first_dropped: id, box and area of the first dropped box; empty if there is none.
        first_clipped: id of the first clipped box.
        normalized: all dropped boxes lie within 0 to 1, as if they were fractions of the image.
    """

    images: int
    empty: int
    boxes: int
    crowds: int
    thin: int
    without_area: int
    clipped: int
    computed_areas: int
    first_dropped: str
    first_clipped: int | None
    normalized: bool

    @property
    def dropped(self) -> int:
        """Boxes with a side below one pixel or an area of 0 or less."""
        return self.thin + self.without_area

    @property
    def reasons(self) -> Iterator[str]:
        """How many boxes were dropped and why, with the first, one line each."""
        if self.thin:
            yield f"{self.thin} with a side below 1 pixel"
        if self.without_area:
            yield f"{self.without_area} with an area of 0 or less"


@dataclass(frozen=True)
class Annotations:
    """N images and their M objects; the objects of image i are rows `offsets[i]:offsets[i + 1]`.

    Attributes:
        file: the annotation file.
        digest: sha256 of the file's bytes, hex.
        categories: (id, name), by id.
        image_ids: N whole numbers: int64, or Python's where one is beyond int64.
        file_names: N names relative to the image folder.
        sizes: int64 [N, 2], width and height in pixels.
        annotated: bool [N], images with any annotation, crowds included.
        offsets: int64 [N + 1].
        boxes: float32 [M, 4], x1 y1 x2 y2 in pixels, inside the image.
        labels: int64 [M], positions in `categories`.
    """

    file: Path
    digest: str
    categories: tuple[tuple[int, str], ...]
    image_ids: NDArray[Any]
    file_names: tuple[str, ...]
    sizes: NDArray[np.int64]
    annotated: Mask
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    counts: Counts


@dataclass(frozen=True)
class _Table:
    """The annotations as columns: id, image, category, crowd [A]; box [A, 4] as x, y, width, height; area [A].

    Ids are Python's integers, because tools make them of hashes and time stamps beyond int64.
    """

    id: list[int]
    image: list[int]
    category: list[int]
    crowd: Mask  # of `iscrowd`, which the evaluators read
    ignore: Mask
    box: NDArray[np.float64]
    area: NDArray[np.float64]
    computed_areas: int


@dataclass(frozen=True)
class _File:
    """A checked annotation file, in the order of its entries."""

    digest: str
    categories: tuple[tuple[int, str], ...]
    images: list[dict[str, Any]]
    image_ids: list[int]
    sizes: NDArray[np.int64]
    table: _Table
    position: NDArray[np.int64]  # of each annotation's image
    label: NDArray[np.int64]  # of each annotation's category


def read(file: Path) -> Annotations:
    """Parse and check `file`.

    Raises:
        DataError: the file is missing or not JSON; a field is missing or of the wrong kind; an id is repeated or
            unknown; a box is completely outside its image.
    """
    content = _checked(file)
    boxes, used, counts = _boxes(file, content)
    position, count = content.position, len(content.images)
    order = np.argsort(position[used], kind="stable")
    per_image = np.bincount(position[used], minlength=count)
    return Annotations(
        file=file,
        digest=content.digest,
        categories=content.categories,
        image_ids=_fields.array(content.image_ids),
        file_names=tuple(_fields.text(file, "image", image, "file_name") for image in content.images),
        sizes=content.sizes,
        annotated=np.bincount(position, minlength=count) > 0,
        offsets=np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64),
        boxes=boxes[used][order],
        labels=content.label[used][order],
        counts=counts,
    )


def ground_truth(file: Path) -> tuple[dict[str, Any], dict[int, int], dict[int, int]]:
    """The file for evaluators, which take 0 for "no match" and compute with ids as floats or int64.

    Returns:
        The data set with images, annotations and categories numbered from 1, and these numbers by image id and by
        category id. Images and categories are numbered in the order of their ids, which evaluators sort by.

    Raises:
        DataError: as in `read`.
    """
    content = _checked(file)
    image_numbers = {id_: number for number, id_ in enumerate(sorted(content.image_ids), 1)}
    category_numbers = {id_: number for number, (id_, _) in enumerate(content.categories, 1)}
    sizes = content.sizes.tolist()
    images = [
        {"id": image_numbers[id_], "width": width, "height": height}
        for id_, (width, height) in zip(content.image_ids, sizes, strict=True)
    ]
    table = content.table
    rows = zip(table.image, table.category, table.box.tolist(), table.area.tolist(), table.crowd.tolist(), strict=True)
    annotations = [
        {
            "id": number,
            "image_id": image_numbers[image],
            "category_id": category_numbers[category],
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
        }
        for number, (image, category, box, area, crowd) in enumerate(rows, 1)
    ]
    categories = [{"id": category_numbers[id_], "name": name} for id_, name in content.categories]
    return (
        {"images": images, "annotations": annotations, "categories": categories},
        image_numbers,
        category_numbers,
    )


def _checked(file: Path) -> _File:
    content, digest = _voc.content(file) if _voc.is_split(file) else _read_json(file)
    categories = _categories(file, content["categories"])
    images: list[dict[str, Any]] = content["images"]
    image_ids = _fields.ids(file, "image", images)
    sizes = [[_fields.side(file, image, key) for key in ("width", "height")] for image in images]
    table = _table(file, content["annotations"])
    return _File(
        digest=digest,
        categories=categories,
        images=images,
        image_ids=image_ids,
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        table=table,
        position=_positions(file, table, image_ids),
        label=_labels(file, table, categories),
    )


def _read_json(file: Path) -> tuple[dict[str, Any], str]:
    try:
        raw = _files.read_bytes(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); put the COCO annotation file there") from error
    digest = hashlib.sha256(raw).hexdigest()
    try:
        content = _files.parse_json(raw, object_hook=_without_segmentation)
    except _files.JsonError as error:
        raise DataError(f"{file}: {error}; if it is truncated or damaged, copy or download it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file}: has no list {key!r}; give a COCO instances file")
    return content, digest


def _without_segmentation(entry: dict[str, Any]) -> dict[str, Any]:
    # Polygons are most of COCO's 450 MB; dropping them while parsing saves memory.
    entry.pop("segmentation", None)
    return entry


def _categories(file: Path, entries: list[Any]) -> tuple[tuple[int, str], ...]:
    ids = _fields.ids(file, "category", entries)
    if not entries:
        raise DataError(f"{file}: 'categories' is empty; list every class with its id and name")
    by_name: dict[str, int] = {}
    for id_, entry in zip(ids, entries, strict=True):
        name = _fields.text(file, "category", entry, "name")
        if name in by_name:
            raise DataError(
                f"{file}: categories {by_name[name]} and {id_} are both named {name!r}; rename one, or give their "
                "annotations one category_id and remove the other category"
            )
        by_name[name] = id_
    return tuple(sorted((id_, name) for name, id_ in by_name.items()))


def _table(file: Path, entries: list[Any]) -> _Table:
    ids = _fields.ids(file, "annotation", entries)
    box = np.array([_fields.box(file, entry) for entry in entries], dtype=np.float64).reshape(-1, 4)
    areas = [_fields.area(file, entry) for entry in entries]
    missing = np.array([area is None for area in areas], dtype=bool)
    return _Table(
        id=ids,
        image=[_fields.whole(file, "annotation", entry, "image_id") for entry in entries],
        category=[_fields.whole(file, "annotation", entry, "category_id") for entry in entries],
        crowd=np.array([_fields.flag(file, entry, "iscrowd") for entry in entries], dtype=bool),
        ignore=np.array([_fields.flag(file, entry, "ignore") for entry in entries], dtype=bool),
        box=box,
        area=np.where(missing, box[:, 2] * box[:, 3], np.array([area or 0.0 for area in areas], dtype=np.float64)),
        computed_areas=int(missing.sum()),
    )


def _positions(file: Path, table: _Table, image_ids: list[int]) -> NDArray[np.int64]:
    """Each annotation's row in `images`, int64 [A]."""
    rows = {id_: row for row, id_ in enumerate(image_ids)}
    for annotation, image in zip(table.id, table.image, strict=True):
        if image not in rows:
            raise DataError(
                f"{file}: annotation {annotation} points to image {image}, which 'images' does not list; "
                "add the image or remove the annotation"
            )
    return np.array([rows[image] for image in table.image], dtype=np.int64)


def _labels(file: Path, table: _Table, categories: tuple[tuple[int, str], ...]) -> NDArray[np.int64]:
    """Each annotation's class, int64 [A], 0 to K - 1."""
    labels = {category: label for label, (category, _) in enumerate(categories)}
    for annotation, category in zip(table.id, table.category, strict=True):
        if category not in labels:
            raise DataError(
                f"{file}: annotation {annotation} has category_id {category}, which 'categories' does not list; "
                "add the category or correct the annotation"
            )
    return np.array([labels[category] for category in table.category], dtype=np.int64)


def _boxes(file: Path, content: _File) -> tuple[NDArray[np.float32], Mask, Counts]:
    """Clipped boxes [A, 4] as x1 y1 x2 y2, which of them are used [A], and the counts."""
    table, position, sizes = content.table, content.position, content.sizes
    limit = np.tile(sizes[position], 2).astype(np.float64)
    corners = np.concatenate([table.box[:, :2], table.box[:, :2] + table.box[:, 2:]], axis=1)
    thin = (table.box[:, 2:] < MIN_SIDE).any(axis=1)
    left_out = thin | (table.area <= 0)
    outside = ~left_out & ((corners[:, 2:] <= 0) | (corners[:, :2] >= limit[:, :2])).any(axis=1)
    if outside.any():
        i = int(np.argmax(outside))
        width, height = sizes[position[i]]
        raise DataError(
            f"{file}: annotation {table.id[i]} has bbox {table.box[i].tolist()}, completely outside image "
            f"{table.image[i]} of {width}x{height} pixels; correct the box or remove the annotation"
        )
    clipped = np.clip(corners, 0, limit).astype(np.float32)
    # A thin box at the border can become empty in float32, and detectors reject empty boxes.
    thin |= (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    left_out |= thin
    crowd = table.crowd | table.ignore
    over = ((corners < 0) | (corners > limit)).any(axis=1) & ~left_out & ~crowd
    dropped, used = left_out & ~crowd, ~left_out & ~crowd
    counts = Counts(
        images=len(sizes),
        empty=len(sizes) - len(np.unique(position)),
        boxes=int(used.sum()),
        crowds=int(crowd.sum()),
        thin=int((dropped & thin).sum()),
        without_area=int((dropped & ~thin).sum()),
        clipped=int(over.sum()),
        computed_areas=table.computed_areas,
        first_dropped=_example(table, int(np.argmax(dropped))) if dropped.any() else "",
        first_clipped=table.id[int(np.argmax(over))] if over.any() else None,
        normalized=bool(dropped.any() and ((table.box[dropped] >= 0) & (table.box[dropped] <= 1)).all()),
    )
    return clipped, used, counts


def _example(table: _Table, i: int) -> str:
    box = ", ".join(f"{value:g}" for value in table.box[i])
    return f"annotation {table.id[i]}, bbox [{box}], area {table.area[i]:g}"
