"""The format of a user's data set, and so which task and recipes it is for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import SpecError


class DataFormat(NamedTuple):
    """What a file or folder is taken for; `kind` is the recipes' `image.kind`."""

    task: str
    description: str
    kind: str


def detect_format(path: Path) -> DataFormat:
    """The format of a folder, by what it holds; a file is a set of arrays.

    Raises:
        SpecError: nothing is there.
    """
    if str(path).startswith("detectron2:"):
        return DataFormat("detection", "a detection set of detectron2's catalog", "resize")
    if not path.exists():
        raise SpecError(
            f"--data {path} does not exist; give a COCO-format folder, an image folder, a folder of images/ and "
            "masks/, or an .npz of images"
        )
    if (path / "annotations").is_dir():
        return DataFormat("detection", "a detection set", "resize")
    if (path / "masks").is_dir():
        return DataFormat("segmentation", "a segmentation set", "scaled_crop")
    if path.is_dir():
        return DataFormat("classification", "a classification set of image files", "resized_crop")
    return DataFormat("classification", "a classification set of small images", "padded_crop")
