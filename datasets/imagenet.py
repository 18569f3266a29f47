"""ImageNet-1k (ILSVRC 2012): 1,281,167 + 50,000 images in 1000 classes, in its folder layout.

Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015, https://www.image-net.org. Class
names are WordNet ids; the order of the sorted ids is the label order of all published ImageNet networks.
"""

from __future__ import annotations

from pathlib import Path

from . import _image_folder
from .base import DataError, ImageSet


def present(root: Path) -> Path | None:
    """`root/imagenet`; None if it is missing."""
    return root / "imagenet" if (root / "imagenet").is_dir() else None


def open_images(root: Path) -> ImageSet:
    """ImageNet at `root/imagenet`, in `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`.

    Raises:
        DataError: files are missing (the message says where to put them) or broken.
    """
    path = present(root)
    if path is None:
        raise DataError(
            f"{root / 'imagenet'}: ImageNet is missing; unpack ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
            "from https://www.image-net.org/download there as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or give "
            "another image folder with --data PATH"
        )
    return _image_folder.open_folder(path, "imagenet", root)
