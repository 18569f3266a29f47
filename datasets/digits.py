"""The embedded data set: handwritten digits, as scenes in a COCO folder, as small pictures in arrays, and as wide
scenes with masks.

It is made from what scikit-learn brings along, so it needs no download, and it lies on disk in the format of COCO
2017, of CIFAR's .npz file and of Cityscapes, so the loaders and the evaluators that read it are those that read the
real sets. `_scenes.py`, `_pictures.py` and `_streets.py` draw and hold the constants that make the views harder or
easier.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import _arrays, _pictures, _preparation, _scenes, _streets, cityscapes
from ._arrays import Channels
from ._scenes import VERSION, Box
from .base import DataError, ImageSet, MaskSet
from .coco import CocoFolder, open_folder

TRAIN, VAL = 2_000, 250  # images
SPLITS = ("train", "val")
TRAIN_PICTURES, VAL_PICTURES = 3_584, 1_000
TRAIN_STREETS, VAL_STREETS = 400, 100
PICTURE_STREAM, STREET_STREAM = 2, 4  # set the pictures' and the streets' draws apart from the scenes'
MEAN: Channels = (0.3220, 0.3348, 0.3206)  # of the default training pictures, kept for every seed
STD: Channels = (0.2510, 0.2465, 0.2587)
_HUFFMAN_ONLY = 2  # noise leaves nothing to match: this is zlib's fastest way here and gives the smallest files


def open_coco(root: Path, *, seed: int = 0, train: int = TRAIN, val: int = VAL, size: int = _scenes.SIZE) -> CocoFolder:
    """The COCO folder of `seed` under `root`, written first if it is not there and whole.

    Raises:
        DataError: the folder cannot be written.
    """
    wanted = identity(seed, train, val, size)
    default = wanted == identity()
    folder = root / (f"digits-v{VERSION}-coco" if default else f"digits-v{VERSION}-coco-{wanted['identity']}")
    notices = prepare(folder, seed, train, val, size)
    return open_folder(folder, "digits", "train2017", "val2017", identity=wanted["identity"], preparation=notices)


def open_images(root: Path, *, seed: int = 0, train: int = TRAIN_PICTURES, val: int = VAL_PICTURES) -> ImageSet:
    """Pictures of one digit each, 32x32 RGB in ten classes, written under `root` first if they are not there and whole.

    Args:
        root: where data sets lie.
        seed: 0 or more; another seed gives other pictures of the same digits.
        train: number of training images, 10 or more; every class as often as the next, give or take one.
        val: number of validation images, drawn from digits that training never sees.

    Raises:
        DataError: an argument is out of range, or the folder cannot be written.
    """
    _check({"seed": (seed, 0), "train": (train, 10), "val": (val, 1)})
    folder, facts = _view(root, "arrays", seed, train, val, (TRAIN_PICTURES, VAL_PICTURES))
    notices = _preparation.prepare(folder, facts, lambda new: write_arrays(new, seed, train, val))
    return _arrays.open_npz(folder / "arrays.npz", "digits", tuple("0123456789"), MEAN, STD, notices)


def open_masks(root: Path, *, seed: int = 0, train: int = TRAIN_STREETS, val: int = VAL_STREETS) -> MaskSet:
    """Wide scenes of digits, 256x128 pixels in eleven classes, written under `root` first if they are not there and
    whole.

    Args:
        root: where data sets lie.
        seed: 0 or more; another seed gives other scenes of the same digits.
        train: number of training images.
        val: number of validation images, drawn from digits that training never sees.

    Raises:
        DataError: an argument is out of range, or the folder cannot be written.
    """
    _check({"seed": (seed, 0), "train": (train, 1), "val": (val, 1)})
    folder, facts = _view(root, "streets", seed, train, val, (TRAIN_STREETS, VAL_STREETS))
    notices = _preparation.prepare(folder, facts, lambda new: write_streets(new, seed, train, val))
    return cityscapes.open_layout(folder, "digits", _streets.LABELS, notices, _hash(facts))


def _check(options: dict[str, tuple[Any, int]]) -> None:
    for option, (value, least) in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError(f"data option {option}={value!r} of 'digits': must be a whole number, {least} or more")


def _view(
    root: Path, view: str, seed: int, train: int, val: int, sizes: tuple[int, int]
) -> tuple[Path, dict[str, Any]]:
    """The folder of a view, and what its manifest must say; the default, of these `sizes`, has the plain name."""
    facts = {"dataset": "digits", "view": view, "version": VERSION, "seed": seed, "train": train, "val": val}
    default = (seed, train, val) == (0, *sizes)
    suffix = "" if default else f"-{_hash(facts)}"
    return root / f"digits-v{VERSION}-{view}{suffix}", facts


def _hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def write_streets(folder: Path, seed: int = 0, train: int = TRAIN_STREETS, val: int = VAL_STREETS) -> str:
    """Write both splits into an empty `folder`, in Cityscapes' layout; identical bytes for identical arguments.

    Returns:
        sha256 over all pixels and labels, hex.
    """
    digest = hashlib.sha256()
    for split, count in zip(SPLITS, (train, val), strict=True):
        images, masks = (folder / kind / split / "digits" for kind in ("leftImg8bit", "gtFine"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        source = _scenes.strokes(split)
        for index in range(count):
            rng = np.random.default_rng((seed, VERSION, STREET_STREAM + SPLITS.index(split), index))
            pixels, ids = _streets.street(rng, source)
            digest.update(pixels.tobytes() + ids.tobytes())
            stem = f"digits_{index:06d}_000000"
            Image.fromarray(pixels).save(
                images / f"{stem}_leftImg8bit.png", compress_level=1, compress_type=_HUFFMAN_ONLY
            )
            Image.fromarray(ids).save(masks / f"{stem}_gtFine_labelIds.png", compress_level=1)
    return digest.hexdigest()


def write_arrays(folder: Path, seed: int = 0, train: int = TRAIN_PICTURES, val: int = VAL_PICTURES) -> str:
    """Write `arrays.npz` into `folder`; identical bytes for identical arguments and version.

    Returns:
        sha256 over all pixels and labels, hex.
    """
    digest = hashlib.sha256()
    arrays = {"class_names": np.array(list("0123456789"))}
    for split, stored, count in zip(SPLITS, ("train", "test"), (train, val), strict=True):
        key = (seed, VERSION, PICTURE_STREAM + SPLITS.index(split))
        images, labels = _pictures.pictures(key, _scenes.strokes(split), count)
        digest.update(images.tobytes() + labels.astype("<i8").tobytes())
        arrays |= {f"x_{stored}": images, f"y_{stored}": labels.astype(np.uint8)}
    with (folder / "arrays.npz").open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()


def identity(seed: int = 0, train: int = TRAIN, val: int = VAL, size: int = _scenes.SIZE) -> dict[str, Any]:
    """What makes the data what it is, and under "identity" 16 hex digits of it; known without drawing anything."""
    facts = {"dataset": "digits", "version": VERSION, "seed": seed, "train": train, "val": val, "size": size}
    return {**facts, "identity": _hash(facts)}


def prepare(
    folder: Path, seed: int = 0, train: int = TRAIN, val: int = VAL, size: int = _scenes.SIZE
) -> tuple[str, ...]:
    """Write the data into `folder` unless it is there and whole; says what was done, one line each.

    Raises:
        DataError: the folder cannot be written; nothing half-written is left.
    """
    wanted = identity(seed, train, val, size)
    return _preparation.prepare(folder, wanted, lambda new: write_coco(new, seed, train, val, size))


def write_coco(folder: Path, seed: int = 0, train: int = TRAIN, val: int = VAL, size: int = _scenes.SIZE) -> str:
    """Write both splits into an empty `folder`; identical bytes for identical arguments and version.

    Args:
        folder: exists and is empty.
        seed: 0 or more; another seed gives other scenes of the same digits.
        train: number of training images.
        val: number of validation images.
        size: side of the square images in pixels; objects grow with it.

    Returns:
        sha256 over all pixels and both annotation files, hex.
    """
    digest = hashlib.sha256()
    (folder / "annotations").mkdir()
    for split, count in zip(SPLITS, (train, val), strict=True):
        annotations = _write_split(folder / f"{split}2017", seed, split, count, size, digest)
        text = json.dumps(annotations, separators=(",", ":")).encode()
        digest.update(text)
        (folder / "annotations" / f"instances_{split}2017.json").write_bytes(text)
    return digest.hexdigest()


def _write_split(folder: Path, seed: int, split: str, count: int, size: int, digest: Any) -> dict[str, Any]:
    """Write the images and return the annotation file's content; `digest` takes in all pixels."""
    folder.mkdir()
    source = _scenes.strokes(split)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for index in range(count):
        # A generator for each image: none depends on how many come before it.
        rng = np.random.default_rng((seed, VERSION, SPLITS.index(split), index))
        pixels, boxes = _scenes.scene(rng, source, size)
        digest.update(pixels.tobytes())
        name = f"{index + 1:012d}.png"
        Image.fromarray(pixels).save(folder / name, compress_level=1, compress_type=_HUFFMAN_ONLY)
        images.append({"id": index + 1, "file_name": name, "width": size, "height": size})
        objects += [_annotation(len(objects) + i, index + 1, box) for i, box in enumerate(boxes, start=1)]
    return {
        "info": {"description": "scenes of handwritten digits", "version": VERSION, "seed": seed, "split": split},
        "images": images,
        "annotations": objects,
        "categories": [{"id": digit + 1, "name": str(digit), "supercategory": "digit"} for digit in range(10)],
    }


def _annotation(identifier: int, image: int, box: Box) -> dict[str, Any]:
    # `area` is the box's, not the ink's as in COCO: at 128 pixels hardly any ink reaches COCO's "large" (96^2).
    return {
        "id": identifier,
        "image_id": image,
        "category_id": box.label + 1,
        "bbox": [box.x, box.y, box.width, box.height],
        "area": box.width * box.height,
        "iscrowd": 0,
    }
