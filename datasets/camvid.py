"""CamVid: 367 + 101 street images of 480x360 pixels in 11 classes, as SegNet and CIRKD split them.

Brostow, Fauqueur, Cipolla, Semantic object classes in video, Pattern Recognition Letters 2009. Read as a mask folder;
label 11 is ignored.
"""

from __future__ import annotations

from pathlib import Path

from . import _mask_folder
from .base import DataError, MaskSet

IGNORED_LABEL = 11
CLASSES = 11
COLORS = (
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
    """`root/camvid`; None if it is missing."""
    return root / "camvid" if (root / "camvid").is_dir() else None


def open_masks(root: Path) -> MaskSet:
    """CamVid at `root/camvid`.

    Raises:
        DataError: files are missing (the message says where to put them) or broken.
    """
    path = root / "camvid"
    if not path.is_dir():
        raise DataError(
            f"{path}: CamVid is missing; put it there as {_mask_folder.LAYOUT}, with label {IGNORED_LABEL} ignored, "
            "or name another folder with --data PATH"
        )
    data = _mask_folder.open_folder(path, "camvid", IGNORED_LABEL, COLORS)
    if len(data.classes) != CLASSES:
        raise DataError(
            f"{path / 'classes.txt'}: names {len(data.classes)} classes, but CamVid has {CLASSES}; restore the list, "
            "or read the folder as another data set with --data PATH"
        )
    return data
