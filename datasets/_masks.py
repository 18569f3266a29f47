"""Pairs of image and mask files: opened by their headers, decoded with every label checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import _images
from .base import VOID, DataError, MaskSet, MaskSplit

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_MODES = {
    "1": "holds one bit a pixel",
    "P": "is a palette image, whose numbers stand for colours",
    "I": "has more than 8 bits a pixel",
    "I;16": "has 16 bits a pixel",
    "I;16B": "has 16 bits a pixel",
    "F": "holds fractions",
}
"""What is wrong with masks of these modes; others have several channels."""


def open_set(
    name: str,
    path: Path,
    classes: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    labels: Mapping[int, int],
    pairs: Mapping[str, Sequence[tuple[Path, Path]]],
    mend: str,
    notices: tuple[str, ...] = (),
) -> MaskSet:
    """A segmentation set of these files.

    Args:
        name: what results call it.
        path: the folder.
        classes: K names.
        colours: one a class.
        labels: class index or VOID of every label that a mask may hold.
        pairs: image and mask files of "train" and "val", in order.
        mend: what to do about another label.
        notices: how the set was prepared.

    Raises:
        DataError: a header cannot be read, a mask is no single 8-bit channel, or has another size than its image.
    """
    splits = {split: _open_split(found, labels, mend) for split, found in pairs.items()}
    return MaskSet(
        name=name,
        path=path,
        classes=tuple(classes),
        colours=tuple(colours),
        **splits,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        fingerprint=_fingerprint(path, classes, labels, pairs),
        notices=notices,
    )


def decode(split: MaskSplit, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image `i` of a split, RGB [H, W, 3], and its class indices [H, W].

    Raises:
        DataError: a file cannot be decoded, or the mask holds an unknown label.
    """
    image = np.asarray(_images.decode(split.images[i]))
    file = split.masks[i]
    try:
        with Image.open(file) as opened:
            mask = np.asarray(opened)
    except _images.UNDECODABLE as error:
        raise DataError(f"{file}: cannot be decoded ({error}); copy or download the mask again") from error
    if not split.known[mask].all():
        unknown = np.flatnonzero(np.bincount(mask.ravel(), minlength=256) * ~split.known)
        raise DataError(f"{file}: holds label {unknown[0]}, which no class has; {split.mend}")
    return image, split.indices[mask]


def _open_split(pairs: Sequence[tuple[Path, Path]], labels: Mapping[int, int], mend: str) -> MaskSplit:
    sizes = []
    for image, mask in pairs:
        size, _ = _header(image)
        mask_size, mode = _header(mask)
        if mode != "L":
            wrong = _MODES.get(mode, f"has several channels ({mode})")
            raise DataError(f"{mask}: {wrong}; save masks as 8-bit greyscale images whose grey levels are labels")
        if mask_size != size:
            raise DataError(
                f"{mask}: is {mask_size[0]}x{mask_size[1]} pixels and {image} is {size[0]}x{size[1]}; give each image "
                "a mask of its own size"
            )
        sizes.append(size)
    indices, known = np.full(256, VOID, dtype=np.uint8), np.zeros(256, dtype=bool)
    for label, index in labels.items():
        indices[label], known[label] = index, True
    images, masks = (tuple(files) for files in zip(*pairs, strict=True))
    return MaskSplit(images, masks, np.array(sizes, dtype=np.int64), indices, known, mend)


def _header(file: Path) -> tuple[tuple[int, int], str]:
    """Width and height, and PIL's mode."""
    try:
        with Image.open(file) as image:
            return image.size, image.mode
    except _images.UNDECODABLE as error:
        raise DataError(f"{file}: cannot be read as an image ({error}); copy or download it again") from error


def _fingerprint(
    path: Path, classes: Sequence[str], labels: Mapping[int, int], pairs: Mapping[str, Sequence[tuple[Path, Path]]]
) -> str:
    """Where the folder lies is no part of it."""
    digest = hashlib.sha256(repr((list(classes), sorted(labels.items()))).encode())
    for split, found in pairs.items():
        for file in (file for pair in found for file in pair):
            digest.update(f"{split}/{file.relative_to(path).as_posix()}\0{file.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
