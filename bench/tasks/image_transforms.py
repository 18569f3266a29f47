"""ImageNet's augmentation and validation images: timm's transforms up to 8-bit pixels, from either decoder.

With `pillow`, images are decoded and resized by Pillow, as in the papers' code. With `torchvision`, by torchvision's
kernels for tensors of bytes, which are faster: the same draws and crops, and pixels that differ by rounding.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdbench.datasets import _images
from kdbench.datasets._files import read_bytes
from kdbench.datasets.base import DataError, FileSplit, ImageSet

from ..spec.recipe import ResizedCrop

JPEG = b"\xff\xd8"
CHANNELS = (1, 3)
"""Of a decoded JPEG: gray levels and colors; those for print (CMYK) are left to Pillow."""

GEOMETRY = {"RandomResizedCropAndInterpolation", "RandomHorizontalFlip", "Resize", "CenterCrop"}
"""timm's transforms that come first; others, which change colors, are of Pillow's images alone."""

Erased = tuple[int, int, Tensor]
"""Top row and left column of a part that is replaced, and its normalized values [3, h, w]."""


def training(data: ImageSet, image: ResizedCrop) -> Any:
    """timm's training transform: PIL image -> normalized float32 [3, size, size]."""
    from timm.data.transforms_factory import create_transform

    return create_transform(
        image.size,
        is_training=True,
        scale=image.scale,
        hflip=image.flip,
        color_jitter=image.color_jitter,
        auto_augment=image.rand_augment,
        interpolation=image.interpolation,
        mean=data.mean,
        std=data.std,
        re_prob=image.random_erasing,
        re_mode="pixel",
    )


def validation(data: ImageSet, image: ResizedCrop) -> Any:
    """timm's validation transform: shorter side to `val_resize`, center crop of `size`; normalized float32."""
    from timm.data.transforms_factory import create_transform

    return create_transform(
        image.size,
        interpolation=image.interpolation,
        mean=data.mean,
        std=data.std,
        crop_pct=image.size / (image.val_resize + 0.5),  # timm takes size / crop_pct, rounded down, for val_resize
    )


class Pixels:
    """An image of a split as uint8 [size, size, 3], and what random erasing replaces.

    Args:
        data: the image set.
        split: of it.
        image: augmentation, and the decoder.
        train: augment; otherwise resize and crop as for validation.
    """

    def __init__(self, data: ImageSet, split: FileSplit, image: ResizedCrop, train: bool) -> None:
        from timm.data.random_erasing import RandomErasing

        self.split, self.image = split, image
        transforms = (training if train else validation)(data, image).transforms
        self.erasing = next((each for each in transforms if isinstance(each, RandomErasing)), None)
        self._canvas = torch.full((3, image.size, image.size), torch.nan)
        names = [type(each).__name__ for each in transforms]
        geometry = sum(name in GEOMETRY for name in names)
        self.geometry, self.rest = transforms[:geometry], transforms[geometry : names.index("Normalize") - 1]
        if self.erasing is None:  # its noise is drawn after what an idle jitter draws
            self.rest = [each for each in self.rest if not _is_idle(each)]

    def load(self, i: int, check: Callable[[tuple[int, int]], None]) -> tuple[Tensor, Erased | None]:
        """Image `i`, by the generators of this process.

        Args:
            i: position in the split.
            check: is called with the width and height of the stored image.

        Raises:
            DataError: it cannot be decoded, or what `check` raises.
        """
        decoded = decode_jpeg(self.split, i) if self.image.decoder == "torchvision" else None
        if decoded is None:
            picture = self.split.load(i)
            check(picture.size)
            pixels = _pixels(_all(self.geometry + self.rest, picture))
        else:
            check((decoded.shape[2], decoded.shape[1]))
            for transform in self.geometry:
                decoded = _on_bytes(transform, decoded)
            pixels = decoded.permute(1, 2, 0)
            if self.rest:
                pixels = _pixels(_all(self.rest, Image.fromarray(pixels.numpy())))
        return pixels, self._erased()

    def _erased(self) -> Erased | None:
        """What timm's random erasing would replace, and by what; it draws from the generators."""
        if self.erasing is None:
            return None
        self.erasing(self._canvas)
        filled = self._canvas[0] == self._canvas[0]  # not NaN
        if not filled.any():
            return None
        rows, columns = filled.any(1).nonzero()[:, 0], filled.any(0).nonzero()[:, 0]
        top, left = int(rows[0]), int(columns[0])
        part = self._canvas[:, top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
        noise = part.clone()
        part.fill_(torch.nan)
        return top, left, noise


def _all(transforms: Sequence[Any], picture: Image.Image) -> Image.Image:
    for transform in transforms:
        picture = transform(picture)
    return picture


def _pixels(picture: Image.Image) -> Tensor:
    """uint8 [H, W, 3]."""
    return torch.from_numpy(np.array(picture))


def _on_bytes(transform: Any, decoded: Tensor) -> Tensor:
    """One of `GEOMETRY` on uint8 [3, H, W], by kernels for bytes; it draws what it draws for Pillow's images."""
    from torchvision.transforms.v2 import functional

    match type(transform).__name__:
        case "RandomResizedCropAndInterpolation":
            part = transform.get_params(decoded, transform.scale, transform.ratio)
            size, mode = list(transform.size), transform.interpolation
            return functional.resized_crop(decoded, *part, size, interpolation=mode, antialias=True)  # type: ignore[no-any-return]
        case "Resize":
            return functional.resize(decoded, [transform.size], interpolation=transform.interpolation, antialias=True)  # type: ignore[no-any-return]
        case _:
            return transform(decoded)  # type: ignore[no-any-return]


def decode_jpeg(split: FileSplit, i: int) -> Tensor | None:
    """Image `i` by torchvision, uint8 [3, H, W]; None for a file that is left to Pillow.

    Raises:
        DataError: the file cannot be read, or has changed since it was listed.
    """
    from torchvision.io import decode_jpeg as decode

    file = split.files[i]
    split.check(i)
    try:
        content = read_bytes(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); copy or download the image again") from error
    if not content.startswith(JPEG):
        return None
    try:
        with _images.quiet():  # torchvision announces the end of its decoders
            decoded = decode(torch.frombuffer(io.BytesIO(content).getbuffer(), dtype=torch.uint8))
    except RuntimeError:
        return None  # damaged, which Pillow says better, or in colors for print
    return decoded.expand(3, -1, -1) if len(decoded) in CHANNELS else None


def _is_idle(transform: Any) -> bool:
    """Whether it is a color jitter of nothing, which timm puts into every list."""
    names = ("brightness", "contrast", "saturation", "hue")
    return all(hasattr(transform, name) and getattr(transform, name) is None for name in names)
