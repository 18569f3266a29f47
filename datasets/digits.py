"""The embedded data set: handwritten digits as scenes with boxes, as small images, and as wide scenes with masks.

It is generated from scikit-learn's digits, so it needs no download, and stored in the formats of COCO 2017, of CIFAR's
.npz file and of Cityscapes, so it is read and evaluated by the same code as the real sets. `_scenes.py`, `_pictures.py`
and `_streets.py` draw the images and contain the constants of their difficulty.
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
from ._scenes import Box
from .base import DataError, ImageSet, MaskSet
from .coco import CocoFolder, open_folder

TRAIN, VAL = 1_000, 150  # images
SPLITS = ("train", "val")
TRAIN_PICTURES, VAL_PICTURES = 3_584, 1_000
TRAIN_STREETS, VAL_STREETS = 400, 100
PICTURE_STREAM, STREET_STREAM = 2, 4  # random streams of images and wide scenes; 0 and 1 are those of the scenes
MEAN: Channels = (0.3220, 0.3348, 0.3206)  # of the default training images, for every seed
STD: Channels = (0.2510, 0.2465, 0.2587)
_HUFFMAN_ONLY = 2  # noise does not repeat: this zlib strategy is the fastest and gives the smallest files


def open_coco(root: Path, *, seed: int = 0, train: int = TRAIN, val: int = VAL, size: int = _scenes.SIZE) -> CocoFolder:
    """The COCO folder of `seed` under `root`, generated if it is missing or incomplete.

    Raises:
        DataError: the folder cannot be written.
    """
    expected = identity(seed, train, val, size)
    default = expected == identity()
    stem = f"digits-v{_scenes.VERSION}-coco"
    folder = root / (stem if default else f"{stem}-{expected['identity']}")
    notices = prepare(folder, seed, train, val, size)
    return open_folder(folder, "digits", "train2017", "val2017", identity=expected["identity"], preparation=notices)


def open_images(root: Path, *, seed: int = 0, train: int = TRAIN_PICTURES, val: int = VAL_PICTURES) -> ImageSet:
    """Images of single digits, 32x32 RGB in ten classes, generated under `root` if they are missing or incomplete.

    Args:
        root: folder of all data sets.
        seed: 0 or more; each seed gives different images of the same digits.
        train: number of training images, 10 or more; the numbers of classes differ by at most one.
        val: number of validation images, of digits that are not in the training images.

    Raises:
        DataError: an argument is out of range, or the folder cannot be written.
    """
    _check({"seed": (seed, 0), "train": (train, 10), "val": (val, 1)})
    folder, facts = _view(root, "arrays", _pictures.VERSION, seed, train, val, (TRAIN_PICTURES, VAL_PICTURES))
    notices = _preparation.prepare(folder, facts, lambda new: write_arrays(new, seed, train, val))
    return _arrays.open_npz(folder / "arrays.npz", "digits", tuple("0123456789"), MEAN, STD, notices)


def open_masks(root: Path, *, seed: int = 0, train: int = TRAIN_STREETS, val: int = VAL_STREETS) -> MaskSet:
    """Wide scenes of digits, 256x128 pixels in eleven classes, generated under `root` if missing or incomplete.

    Args:
        root: folder of all data sets.
        seed: 0 or more; each seed gives different scenes of the same digits.
        train: number of training images.
        val: number of validation images, of digits that are not in the training images.

    Raises:
        DataError: an argument is out of range, or the folder cannot be written.
    """
    _check({"seed": (seed, 0), "train": (train, 1), "val": (val, 1)})
    folder, facts = _view(root, "streets", _streets.VERSION, seed, train, val, (TRAIN_STREETS, VAL_STREETS))
    notices = _preparation.prepare(folder, facts, lambda new: write_streets(new, seed, train, val))
    return cityscapes.open_layout(folder, "digits", _streets.LABELS, notices, _hash(facts))


def _check(options: dict[str, tuple[Any, int]]) -> None:
    for option, (value, least) in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError(f"data option {option}={value!r} of 'digits': must be a whole number, {least} or more")


def _view(
    root: Path, view: str, version: int, seed: int, train: int, val: int, sizes: tuple[int, int]
) -> tuple[Path, dict[str, Any]]:
    """The folder of a view and the expected manifest; default data of these `sizes` has a name without hash."""
    facts = {"dataset": "digits", "view": view, "version": version, "seed": seed, "train": train, "val": val}
    default = (seed, train, val) == (0, *sizes)
    suffix = "" if default else f"-{_hash(facts)}"
    return root / f"digits-v{version}-{view}{suffix}", facts


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
            rng = np.random.default_rng((seed, _streets.VERSION, STREET_STREAM + SPLITS.index(split), index))
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
        key = (seed, _pictures.VERSION, PICTURE_STREAM + SPLITS.index(split))
        images, labels = _pictures.pictures(key, _scenes.strokes(split), count)
        digest.update(images.tobytes() + labels.astype("<i8").tobytes())
        arrays |= {f"x_{stored}": images, f"y_{stored}": labels.astype(np.uint8)}
    with (folder / "arrays.npz").open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()


def identity(seed: int = 0, train: int = TRAIN, val: int = VAL, size: int = _scenes.SIZE) -> dict[str, Any]:
    """The parameters of the data, and under "identity" 16 hex digits of their hash; nothing is drawn."""
    facts = {"dataset": "digits", "version": _scenes.VERSION, "seed": seed, "train": train, "val": val, "size": size}
    return {**facts, "identity": _hash(facts)}


def prepare(
    folder: Path, seed: int = 0, train: int = TRAIN, val: int = VAL, size: int = _scenes.SIZE
) -> tuple[str, ...]:
    """Generate the data in `folder` unless it is complete; returns what was done, one line each.

    Raises:
        DataError: the folder cannot be written; no partly written folder is left.
    """
    expected = identity(seed, train, val, size)
    return _preparation.prepare(folder, expected, lambda new: write_coco(new, seed, train, val, size))


def write_coco(folder: Path, seed: int = 0, train: int = TRAIN, val: int = VAL, size: int = _scenes.SIZE) -> str:
    """Write both splits into an empty `folder`; identical bytes for identical arguments and version.

    Args:
        folder: an existing, empty folder.
        seed: 0 or more; each seed gives different scenes of the same digits.
        train: number of training images.
        val: number of validation images.
        size: side of the square images in pixels; objects scale with it.

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
    """Write the images and return the content of the annotation file; `digest` is updated with all pixels."""
    folder.mkdir()
    source = _scenes.strokes(split)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for index in range(count):
        # One generator per image, so that an image does not depend on the number of images.
        rng = np.random.default_rng((seed, _scenes.VERSION, SPLITS.index(split), index))
        pixels, boxes = _scenes.scene(rng, source, size)
        digest.update(pixels.tobytes())
        name = f"{index + 1:012d}.png"
        Image.fromarray(pixels).save(folder / name, compress_level=1, compress_type=_HUFFMAN_ONLY)
        images.append({"id": index + 1, "file_name": name, "width": size, "height": size})
        objects += [_annotation(len(objects) + i, index + 1, box) for i, box in enumerate(boxes, start=1)]
    return {
        "info": {
            "description": "scenes of handwritten digits",
            "version": _scenes.VERSION,
            "seed": seed,
            "split": split,
        },
        "images": images,
        "annotations": objects,
        "categories": [{"id": digit + 1, "name": str(digit), "supercategory": "digit"} for digit in range(10)],
    }


def _annotation(identifier: int, image: int, box: Box) -> dict[str, Any]:
    # `area` is that of the box, not of the ink as in COCO: at 128 pixels hardly any ink has COCO's "large" (96^2).
    return {
        "id": identifier,
        "image_id": image,
        "category_id": box.label + 1,
        "bbox": [box.x, box.y, box.width, box.height],
        "area": box.width * box.height,
        "iscrowd": 0,
    }
