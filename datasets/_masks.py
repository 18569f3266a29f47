"""Pairs of image and mask files: opened by their headers, decoded with every label checked."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import _images
from .base import VOID, DataError, MaskSet, MaskSplit

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_PNG = struct.Struct(">16sIIBB")  # signature and name of the first chunk, width, height, bits a channel, colour type
_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_GREYSCALE, _PALETTE = 0, 3
_CHANNELS = {2: "RGB", 4: "LA", 6: "RGBA"}


def open_set(
    name: str,
    path: Path,
    classes: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    labels: Mapping[int, int],
    pairs: Mapping[str, Sequence[tuple[Path, Path]]],
    mend: str,
    notices: tuple[str, ...] = (),
    identity: str = "",
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
        identity: fixed fingerprint of a generated set, whose files' sizes depend on the version of zlib.

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
        fingerprint=identity or _fingerprint(path, classes, labels, pairs),
        notices=notices,
    )


def decode(split: MaskSplit, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image `i` of a split, RGB [H, W, 3], and its class indices [H, W].

    Raises:
        DataError: a file cannot be decoded, or the mask holds an unknown label.
    """
    return np.asarray(_images.decode(split.images[i])), decode_mask(split, i)


def decode_mask(split: MaskSplit, i: int) -> NDArray[np.uint8]:
    """Class indices of image `i`, [H, W]; errors as in `decode`."""
    file = split.masks[i]
    try:
        with Image.open(file) as opened:
            mask = np.asarray(opened)
    except _images.UNDECODABLE as error:
        raise DataError(f"{file}: cannot be decoded ({error}); copy or download the mask again") from error
    if not split.known[mask].all():
        unknown = np.flatnonzero(np.bincount(mask.ravel(), minlength=256) * ~split.known)
        raise DataError(f"{file}: holds label {unknown[0]}, which no class has; {split.mend}")
    indices: NDArray[np.uint8] = split.indices[mask]
    return indices


def _open_split(pairs: Sequence[tuple[Path, Path]], labels: Mapping[int, int], mend: str) -> MaskSplit:
    sizes = []
    for image, mask in pairs:
        size, mask_size = _size(image), _mask_size(mask)
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


def _mask_size(file: Path) -> tuple[int, int]:
    """Width and height of a mask, which must be a PNG of one channel of 8 bits.

    Looked up in the file itself: Pillow stretches grey levels of 2 and 4 bits to 0..255 and does not say so.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(_PNG.size)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); allow reading it") from error
    if len(head) < _PNG.size or not head.startswith(_START):
        raise DataError(f"{file}: cannot be read as an image (it is no PNG); copy or download it again")
    _, width, height, bits, kind = _PNG.unpack(head)
    if (bits, kind) == (8, _GREYSCALE):
        return width, height
    mend = "save masks as 8-bit greyscale images whose grey levels are labels"
    if kind == _PALETTE:
        keep = "Image.fromarray(np.asarray(Image.open(file))).save(file) does that where the numbers are labels"
        raise DataError(f"{file}: is a palette image, whose numbers stand for colours; {mend} ({keep})")
    wrong = f"has several channels ({_CHANNELS[kind]})" if kind in _CHANNELS else f"is {bits}-bit greyscale"
    raise DataError(f"{file}: {wrong}; {mend}")


def _size(file: Path) -> tuple[int, int]:
    """Width and height of an image."""
    try:
        with Image.open(file) as image:
            return image.size
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
