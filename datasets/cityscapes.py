"""Cityscapes: 2,975 + 500 finely annotated street images of 2048x1024 pixels in 19 classes, and its layout.

Cordts et al., The Cityscapes dataset for semantic urban scene understanding, CVPR 2016,
https://www.cityscapes-dataset.com. Masks are the labelIds of `gtFine`; the standard table maps them to classes.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import NamedTuple

from . import _masks
from ._text import counted
from .base import IGNORE_INDEX, DataError, MaskSet

LAYOUT = "leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and gtFine/{train,val}/<city>/*_gtFine_labelIds.png"
_IMAGE, _MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"


class Label(NamedTuple):
    """A label in the masks: name, id in the files, class index or IGNORE_INDEX, and RGB color."""

    name: str
    id: int
    train_id: int
    color: tuple[int, int, int]


def present(root: Path) -> Path | None:
    """`root/cityscapes`; None if it is missing."""
    return root / "cityscapes" if (root / "cityscapes").is_dir() else None


def open_masks(root: Path) -> MaskSet:
    """Cityscapes at `root/cityscapes`.

    Raises:
        DataError: files are missing (the message says where to put them) or broken.
    """
    path = root / "cityscapes"
    if not path.is_dir():
        raise DataError(
            f"{path}: Cityscapes is missing; unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
            f"https://www.cityscapes-dataset.com there ({LAYOUT}), or name another folder with --data PATH"
        )
    return open_layout(path, "cityscapes", table())


def table() -> list[Label]:
    """The standard labels, without the license plate, whose id of -1 does not occur in files."""
    from torchvision.datasets import Cityscapes

    return [
        Label(c.name, c.id, c.train_id if 0 <= c.train_id < IGNORE_INDEX else IGNORE_INDEX, c.color)
        for c in Cityscapes.classes
        if c.id >= 0
    ]


def open_layout(
    path: Path, name: str, labels: Sequence[Label], notices: tuple[str, ...] = (), identity: str = ""
) -> MaskSet:
    """A folder in Cityscapes' layout.

    Args:
        path: the folder.
        name: name in result rows.
        labels: every label that masks may contain.
        notices: what was prepared.
        identity: fingerprint of a generated set.

    Raises:
        DataError: files are missing or broken.
    """
    classes = sorted((label for label in labels if label.train_id != IGNORE_INDEX), key=lambda label: label.train_id)
    return _masks.open_set(
        name=name,
        path=path,
        classes=[label.name for label in classes],
        colors=[label.color for label in classes],
        labels={label.id: label.train_id for label in labels},
        pairs={split: _pairs(path, split) for split in ("train", "val")},
        fix="restore the original labelIds file",
        notices=notices,
        identity=identity,
    )


def _pairs(path: Path, split: str) -> list[tuple[Path, Path]]:
    images, masks = path / "leftImg8bit" / split, path / "gtFine" / split
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: missing; Cityscapes' layout is {LAYOUT}")
    image_files = _files(images, _IMAGE)
    mask_files = _files(masks, _MASK)
    if not image_files:
        raise DataError(f"{images}: has no <city>/*{_IMAGE}; Cityscapes' layout is {LAYOUT}")
    if unpaired := sorted(image_files.keys() - mask_files.keys()):
        file = masks / f"{unpaired[0]}{_MASK}"
        raise DataError(f"{file}: missing, one of {_both(unpaired, 'mask', image_files, 'image')}; put them there")
    if unpaired := sorted(mask_files.keys() - image_files.keys()):
        file = images / f"{unpaired[0]}{_IMAGE}"
        raise DataError(f"{file}: missing, one of {_both(unpaired, 'image', mask_files, 'mask')}; put them there")
    return [(image_files[stem], mask_files[stem]) for stem in image_files]


def _both(missing: Sized, kind: str, present: Sized, partner: str) -> str:
    return f"{counted(len(missing), kind)} of {counted(len(present), partner)}"


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """Files `<city>/*suffix` by their relative name without suffix."""
    return {str(f.relative_to(folder)).removesuffix(suffix): f for f in sorted(folder.glob(f"*/*{suffix}"))}
