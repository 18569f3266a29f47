"""Cityscapes: 2,975 + 500 finely annotated street images of 2048x1024 pixels in 19 classes, and its layout.

Cordts et al., The Cityscapes dataset for semantic urban scene understanding, CVPR 2016,
https://www.cityscapes-dataset.com. Masks are `gtFine`'s labelIds; the standard table turns them into training classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import _masks
from .base import VOID, DataError, MaskSet

LAYOUT = "leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and gtFine/{train,val}/<city>/*_gtFine_labelIds.png"
_IMAGE, _MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"


class Label(NamedTuple):
    """A label of the masks: its id there, the index of its class or VOID, and its colour."""

    name: str
    id: int
    train_id: int
    colour: tuple[int, int, int]


def present(root: Path) -> Path | None:
    """`root/cityscapes`; None if it is not there."""
    return root / "cityscapes" if (root / "cityscapes").is_dir() else None


def open_masks(root: Path) -> MaskSet:
    """Cityscapes at `root/cityscapes`.

    Raises:
        DataError: something is missing (the message says what to put where) or broken.
    """
    path = root / "cityscapes"
    if not path.is_dir():
        raise DataError(
            f"{path}: there is no Cityscapes; unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
            f"https://www.cityscapes-dataset.com there ({LAYOUT}), or name another folder with --data PATH"
        )
    return open_layout(path, "cityscapes", table())


def table() -> list[Label]:
    """The standard labels; the licence plate's id of -1 stands in no file."""
    from torchvision.datasets import Cityscapes

    return [
        Label(c.name, c.id, c.train_id if 0 <= c.train_id < VOID else VOID, c.color)
        for c in Cityscapes.classes
        if c.id >= 0
    ]


def open_layout(
    path: Path, name: str, labels: Sequence[Label], notices: tuple[str, ...] = (), identity: str = ""
) -> MaskSet:
    """A folder in Cityscapes' layout.

    Args:
        path: the folder.
        name: what results call it.
        labels: every label that masks may hold.
        notices: how the folder was prepared.
        identity: fixed fingerprint of a generated set.

    Raises:
        DataError: something is missing or broken; names it.
    """
    classes = sorted((label for label in labels if label.train_id != VOID), key=lambda label: label.train_id)
    return _masks.open_set(
        name=name,
        path=path,
        classes=[label.name for label in classes],
        colours=[label.colour for label in classes],
        labels={label.id: label.train_id for label in labels},
        pairs={split: _pairs(path, split) for split in ("train", "val")},
        mend="restore the original labelIds file",
        notices=notices,
        identity=identity,
    )


def _pairs(path: Path, split: str) -> list[tuple[Path, Path]]:
    images, masks = path / "leftImg8bit" / split, path / "gtFine" / split
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: missing; a folder in Cityscapes' layout holds {LAYOUT}")
    own = {str(file.relative_to(images)).removesuffix(_IMAGE): file for file in sorted(images.glob(f"*/*{_IMAGE}"))}
    theirs = {str(file.relative_to(masks)).removesuffix(_MASK): file for file in sorted(masks.glob(f"*/*{_MASK}"))}
    if not own:
        raise DataError(f"{images}: holds no <city>/*{_IMAGE}; a folder in Cityscapes' layout holds {LAYOUT}")
    if lonely := sorted(own.keys() - theirs.keys()):
        missing = masks / f"{lonely[0]}{_MASK}"
        raise DataError(f"{missing}: missing, one of {len(lonely)} masks of {len(own)} images; put them there")
    if lonely := sorted(theirs.keys() - own.keys()):
        missing = images / f"{lonely[0]}{_IMAGE}"
        raise DataError(f"{missing}: missing, one of {len(lonely)} images of {len(theirs)} masks; put them there")
    return [(own[key], theirs[key]) for key in own]
