"""CamVid: 367 + 101 street images of 480x360 pixels in 11 classes, as SegNet and CIRKD split them.

Brostow, Fauqueur, Cipolla, Semantic object classes in video, Pattern Recognition Letters 2009. Read as a mask folder;
label 11 is void.
"""

from __future__ import annotations

from pathlib import Path

from . import _mask_folder
from .base import DataError, MaskSet

IGNORE_INDEX = 11
CLASSES = 11
COLOURS = (
    (128, 128, 128),  # sky
    (128, 0, 0),  # building
    (192, 192, 128),  # pole
    (128, 64, 128),  # road
    (60, 40, 222),  # pavement
    (128, 128, 0),  # tree
    (192, 128, 128),  # sign
    (64, 64, 128),  # fence
    (64, 0, 128),  # car
    (64, 64, 0),  # pedestrian
    (0, 128, 192),  # bicyclist
)


def present(root: Path) -> Path | None:
    """`root/camvid`; None if it is not there."""
    return root / "camvid" if (root / "camvid").is_dir() else None


def open_masks(root: Path) -> MaskSet:
    """CamVid at `root/camvid`.

    Raises:
        DataError: something is missing (the message says what to put where) or broken.
    """
    path = root / "camvid"
    if not path.is_dir():
        raise DataError(
            f"{path}: there is no CamVid; put it there as {_mask_folder.LAYOUT}, with label {IGNORE_INDEX} for void, "
            "or name another folder with --data PATH"
        )
    data = _mask_folder.open_folder(path, "camvid", IGNORE_INDEX, COLOURS)
    if len(data.classes) != CLASSES:
        raise DataError(
            f"{path / 'classes.txt'}: names {len(data.classes)} classes, and CamVid has {CLASSES} here; restore the "
            "list, or name the folder as a set of its own with --data PATH"
        )
    return data
