"""A data set of one's own: what it looks like, and so which task and recipes it is for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import SpecError


class Looks(NamedTuple):
    """What a file or folder is taken for; `kind` is the recipes' `image.kind`."""

    task: str
    words: str
    kind: str


def look(path: Path) -> Looks:
    """A folder is told by what it holds, a file is an array set.

    Raises:
        SpecError: there is nothing.
    """
    if str(path).startswith("detectron2:"):
        return Looks("detection", "a detection set of detectron2's catalog", "resize")
    if not path.exists():
        raise SpecError(
            f"--data {path}: is not there; give a COCO-format folder, an image folder, a folder of images/ and masks/, "
            "or an .npz of images"
        )
    if (path / "annotations").is_dir():
        return Looks("detection", "a detection set", "resize")
    if (path / "masks").is_dir():
        return Looks("segmentation", "a segmentation set", "scaled_crop")
    if path.is_dir():
        return Looks("classification", "a classification set of image files", "resized_crop")
    return Looks("classification", "a classification set of small images", "padded_crop")
