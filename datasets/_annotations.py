"""Annotation files in COCO format, checked and converted to arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import DataError

Mask = NDArray[np.bool_]
Kind = type | tuple[type, ...]
_NUMBER = (int, float)
_KIND_NAMES: dict[Kind, str] = {int: "a whole number", str: "a string", list: "a list", _NUMBER: "a number"}
MIN_SIDE = 1.0  # pixels; the papers' loader (mmdetection) drops narrower boxes


@dataclass(frozen=True)
class Counts:
    """Numbers of images and annotations of a split, and of those left out; `first_*` are annotation ids.

    Attributes:
        images: images in the annotation file.
        empty: images without any annotation.
        boxes: objects in all images, without crowds and dropped boxes.
        crowds: annotations with `iscrowd` or `ignore`; not used as boxes, but read by the evaluator.
        dropped: boxes with a side below one pixel or an area of 0 or less.
        clipped: boxes that exceed their image and were clipped to it.
    """

    images: int
    empty: int
    boxes: int
    crowds: int
    dropped: int
    clipped: int
    first_dropped: int | None
    first_clipped: int | None


@dataclass(frozen=True)
class Annotations:
    """N images and their M objects; the objects of image i are rows `offsets[i]:offsets[i + 1]`.

    Attributes:
        file: the annotation file.
        digest: sha256 of the file's bytes, hex.
        categories: (id, name), by id.
        image_ids: int64 [N].
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
    image_ids: NDArray[np.int64]
    file_names: tuple[str, ...]
    sizes: NDArray[np.int64]
    annotated: Mask
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    counts: Counts


@dataclass(frozen=True)
class _Table:
    """The annotations as columns: id, image, category, crowd [A]; box [A, 4] as x, y, width, height; area [A]."""

    id: NDArray[np.int64]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    crowd: Mask
    box: NDArray[np.float64]
    area: NDArray[np.float64]


def read(file: Path) -> Annotations:
    """Parse and check `file`.

    Raises:
        DataError: the file is missing or not JSON; a field is missing or of the wrong kind; an id is repeated or
            unknown; a box is completely outside its image.
    """
    content, digest = _read_json(file)
    categories = _categories(file, content["categories"])
    images: list[dict[str, Any]] = content["images"]
    image_ids = _integers(file, "image", images, "id")
    _reject_repeated(file, "image", image_ids)
    sizes = np.stack([_integers(file, "image", images, key) for key in ("width", "height")], axis=1)
    file_names = tuple(_field(file, "image", image, "file_name", str) for image in images)
    table = _table(file, content["annotations"])
    _reject_repeated(file, "annotation", table.id)
    position = _positions(file, table, image_ids)
    label = _labels(file, table, categories)
    boxes, used, counts = _boxes(file, table, position, sizes)
    order = np.argsort(position[used], kind="stable")
    per_image = np.bincount(position[used], minlength=len(images))
    annotated = np.bincount(position, minlength=len(images)) > 0
    return Annotations(
        file=file,
        digest=digest,
        categories=categories,
        image_ids=image_ids,
        file_names=file_names,
        sizes=sizes,
        annotated=annotated,
        offsets=np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64),
        boxes=boxes[used][order],
        labels=label[used][order],
        counts=counts,
    )


def _read_json(file: Path) -> tuple[dict[str, Any], str]:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); put the COCO annotation file there") from error
    digest = hashlib.sha256(raw).hexdigest()
    try:
        text = raw.decode("utf-8-sig")
        content = json.loads(text, object_hook=_without_segmentation)
    except json.JSONDecodeError as error:
        at = len(text[: error.pos].encode())
        raise DataError(
            f"{file}: not valid JSON at byte {at} of {len(raw)} ({error.msg}); "
            "the file is probably truncated: copy or download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not text at byte {error.start} of {len(raw)}; copy or download it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file}: has no list {key!r}; give a COCO instances file")
    return content, digest


def _without_segmentation(entry: dict[str, Any]) -> dict[str, Any]:
    # Polygons are most of COCO's 450 MB; dropping them while parsing saves memory.
    entry.pop("segmentation", None)
    return entry


def _categories(file: Path, entries: list[Any]) -> tuple[tuple[int, str], ...]:
    ids = _integers(file, "category", entries, "id")
    _reject_repeated(file, "category", ids)
    if not entries:
        raise DataError(f"{file}: 'categories' is empty; list every class with its id and name")
    names = (_field(file, "category", entry, "name", str) for entry in entries)
    return tuple(sorted(zip(ids.tolist(), names, strict=True)))


def _table(file: Path, entries: list[Any]) -> _Table:
    boxes = [_field(file, "annotation", entry, "bbox", list) for entry in entries]
    areas = [_field(file, "annotation", entry, "area", _NUMBER) for entry in entries]
    ids = _integers(file, "annotation", entries, "id")
    for ann, box in zip(ids, boxes, strict=True):
        if len(box) != 4 or not all(isinstance(value, _NUMBER) for value in box):
            raise DataError(f"{file}: annotation {ann} has bbox {box}; write [x, y, width, height] in pixels")
    table = _Table(
        id=ids,
        image=_integers(file, "annotation", entries, "image_id"),
        category=_integers(file, "annotation", entries, "category_id"),
        crowd=np.array([bool(entry.get("iscrowd") or entry.get("ignore")) for entry in entries], dtype=bool),
        box=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        area=np.array(areas, dtype=np.float64),
    )
    bad = ~(np.isfinite(table.box).all(axis=1) & np.isfinite(table.area))
    if bad.any():
        i = int(np.argmax(bad))
        raise DataError(f"{file}: annotation {ids[i]} has bbox {boxes[i]} and area {areas[i]}; write finite numbers")
    return table


def _positions(file: Path, table: _Table, image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each annotation's row in `images`, int64 [A]."""
    positions = _find(table.image, image_ids)
    if (positions < 0).any():
        i = int(np.argmax(positions < 0))
        raise DataError(
            f"{file}: annotation {table.id[i]} points to image {table.image[i]}, which 'images' does not list; "
            "add the image or remove the annotation"
        )
    return positions


def _labels(file: Path, table: _Table, categories: tuple[tuple[int, str], ...]) -> NDArray[np.int64]:
    """Each annotation's class, int64 [A], 0 to K - 1."""
    labels = _find(table.category, np.array([category for category, _ in categories], dtype=np.int64))
    if (labels < 0).any():
        i = int(np.argmax(labels < 0))
        raise DataError(
            f"{file}: annotation {table.id[i]} has category_id {table.category[i]}, which 'categories' does not list; "
            "add the category or correct the annotation"
        )
    return labels


def _find(values: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """The position of each of `values` in `among`, -1 for missing values."""
    if not len(among):
        return np.full(len(values), -1, dtype=np.int64)
    order = np.argsort(among)
    rank = np.minimum(np.searchsorted(among, values, sorter=order), len(among) - 1)
    position = order[rank]
    return np.where(among[position] == values, position, -1).astype(np.int64)


def _boxes(
    file: Path, table: _Table, position: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float32], Mask, Counts]:
    """Clipped boxes [A, 4] as x1 y1 x2 y2, which of them are used [A], and the counts."""
    limit = np.tile(sizes[position], 2).astype(np.float64)
    corners = np.concatenate([table.box[:, :2], table.box[:, :2] + table.box[:, 2:]], axis=1)
    thin = (table.box[:, 2:] < MIN_SIDE).any(axis=1) | (table.area <= 0)
    outside = ~thin & ((corners[:, 2:] <= 0) | (corners[:, :2] >= limit[:, :2])).any(axis=1)
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
    over = ((corners < 0) | (corners > limit)).any(axis=1) & ~thin & ~table.crowd
    dropped = thin & ~table.crowd
    used = ~thin & ~table.crowd
    counts = Counts(
        images=len(sizes),
        empty=len(sizes) - len(np.unique(position)),
        boxes=int(used.sum()),
        crowds=int(table.crowd.sum()),
        dropped=int(dropped.sum()),
        clipped=int(over.sum()),
        first_dropped=int(table.id[np.argmax(dropped)]) if dropped.any() else None,
        first_clipped=int(table.id[np.argmax(over)]) if over.any() else None,
    )
    return clipped, used, counts


def _integers(file: Path, kind: str, entries: Iterable[Any], key: str) -> NDArray[np.int64]:
    return np.array([_field(file, kind, entry, key, int) for entry in entries], dtype=np.int64)


def _field(file: Path, kind: str, entry: Any, key: str, expected: Kind) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, expected) and not isinstance(value, bool):
        return value
    name = entry.get("id", "without id") if isinstance(entry, dict) else entry
    raise DataError(f"{file}: {kind} {name} has {key} {value!r}; it must be {_KIND_NAMES[expected]}")


def _reject_repeated(file: Path, kind: str, ids: NDArray[np.int64]) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        i = int(np.argmax(counts > 1))
        raise DataError(f"{file}: {kind} id {values[i]} occurs {counts[i]} times; ids must be unique, renumber them")
