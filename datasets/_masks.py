"""Segmentation sets of image and mask files; opening reads only the headers of the files."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from . import _bit_depth, _files, _orientation
from .base import IGNORE_INDEX, DataError, MaskSet, MaskSplit

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_PNG = struct.Struct(">16sIIBB")  # signature and name of the first chunk, width, height, bits per channel, color type
_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_GRAYSCALE, _PALETTE = 0, 3
_CHANNELS = {2: "RGB", 4: "LA", 6: "RGBA"}


def open_set(
    name: str,
    path: Path,
    classes: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    labels: Mapping[int, int],
    pairs: Mapping[str, Sequence[tuple[Path, Path]]],
    fix: str,
    notices: tuple[str, ...] = (),
    identity: str = "",
) -> MaskSet:
    """The segmentation set of these files.

    Args:
        name: name in result rows.
        path: the folder.
        classes: K names.
        colors: RGB of each class.
        labels: class index or IGNORE_INDEX of every label that masks may contain.
        pairs: image and mask files of "train" and "val", in order.
        fix: how to fix another label, for the message.
        notices: what was prepared.
        identity: fingerprint of a generated set, whose file sizes depend on the version of zlib.

    Raises:
        DataError: a header cannot be read, a mask is not a single 8-bit channel, or its image has another size, also
            when it is turned by its orientation tag.
    """
    splits = {split: _open_split(files, labels, fix) for split, files in pairs.items()}
    seen = [
        notice
        for split, (data, survey) in splits.items()
        for notice in (
            *_orientation.notices(f"{path}: {split}", survey, data.images, "masks"),
            *_bit_depth.notices(f"{path}: {split}", [data.images[i] for i in survey.deep]),
        )
    ]
    return MaskSet(
        name=name,
        path=path,
        classes=tuple(classes),
        colors=tuple(colors),
        **{split: data for split, (data, _) in splits.items()},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        fingerprint=identity or _fingerprint(path, classes, labels, pairs),
        preparation=(*notices, *seen),
    )


def _open_split(
    pairs: Sequence[tuple[Path, Path]], labels: Mapping[int, int], fix: str
) -> tuple[MaskSplit, _orientation.Survey]:
    indices, known = np.full(256, IGNORE_INDEX, dtype=np.uint8), np.zeros(256, dtype=bool)
    for label, index in labels.items():
        indices[label], known[label] = index, True
    images, masks = (tuple(files) for files in zip(*pairs, strict=True))
    sizes = np.array([_mask_size(mask) for mask in masks], dtype=np.int64)
    survey = _orientation.survey(images, sizes, _orientation.MASKS)
    return MaskSplit(images, masks, sizes, indices, known, fix, survey.applies), survey


def _mask_size(file: Path) -> tuple[int, int]:
    """Width and height of a mask, which must be a PNG of one channel of 8 bits.

    Read from the header, because Pillow silently scales gray levels of 2 and 4 bits to 0..255.
    """
    try:
        with _files.open_regular(file) as stream:
            head = stream.read(_PNG.size)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); copy or restore it") from error
    if len(head) < _PNG.size or not head.startswith(_START):
        raise DataError(f"{file}: cannot be read as an image (it is not a PNG); copy or download it again")
    _, width, height, bits, kind = _PNG.unpack(head)
    if (bits, kind) == (8, _GRAYSCALE):
        return width, height
    fix = "save masks as 8-bit grayscale images whose gray levels are labels"
    if kind == _PALETTE:
        code = "Image.fromarray(np.asarray(Image.open(file))).save(file) converts a palette whose indices are labels"
        raise DataError(f"{file}: is a palette image, with color indices as values; {fix} ({code})")
    reason = f"has several channels ({_CHANNELS[kind]})" if kind in _CHANNELS else f"is {bits}-bit grayscale"
    raise DataError(f"{file}: {reason}; {fix}")


def _fingerprint(
    path: Path, classes: Sequence[str], labels: Mapping[int, int], pairs: Mapping[str, Sequence[tuple[Path, Path]]]
) -> str:
    """16 hex digits of the classes, labels, and relative names and sizes of all files."""
    digest = hashlib.sha256(repr((list(classes), sorted(labels.items()))).encode())
    for split, files in pairs.items():
        for file in (file for pair in files for file in pair):
            digest.update(f"{split}/{file.relative_to(path).as_posix()}\0{file.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
