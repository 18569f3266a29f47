"""The strong augmentation of multi-level logit distillation, in whole batches on the device that holds the images.

Two of 14 operations, drawn with replacement, each with a strength that is uniform in its range, then a gray square. The
operations are Pillow's (nearest pixels, black outside, integers after each); torchvision's RandAugment draws others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from .augment import by_channel

OPERATIONS: tuple[tuple[str, float, float], ...] = (
    ("auto_contrast", 0.0, 1.0),
    ("equalize", 0.0, 1.0),
    ("identity", 0.0, 1.0),
    ("brightness", 0.05, 0.95),
    ("color", 0.05, 0.95),
    ("contrast", 0.05, 0.95),
    ("sharpness", 0.05, 0.95),
    ("posterize", 4.0, 8.0),
    ("rotate", -30.0, 30.0),
    ("shear_x", -0.3, 0.3),
    ("shear_y", -0.3, 0.3),
    ("translate_x", -0.3, 0.3),
    ("translate_y", -0.3, 0.3),
    ("solarize", 0.0, 256.0),
)
"""Names, and the ranges of their strengths: factors, bits, degrees, shares of a side, a threshold."""

NAMES = tuple(name for name, _, _ in OPERATIONS)
ROUNDS = 2
DRAWS = 2 * ROUNDS + 3
"""Uniform draws of an image: operation and strength of each round, side and center of the square."""

LARGEST = 0.5  # side of the square, of the image's
GRAY = (125.0, 123.0, 114.0)
LUMINANCE = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Operations:
    """What is done with n images: [n, ROUNDS] operations and strengths, [n, 3] side and center of the square."""

    operation: Tensor
    strength: Tensor
    square: Tensor

    @classmethod
    def of(cls, uniform: Tensor) -> Operations:
        """From DRAWS uniform draws of each image, float64 [n, DRAWS]."""
        operation = (uniform[:, :ROUNDS] * len(OPERATIONS)).long().clamp(max=len(OPERATIONS) - 1)
        low, high = (uniform.new_tensor([each[side] for each in OPERATIONS]) for side in (1, 2))
        strength = low[operation] + (high - low)[operation] * uniform[:, ROUNDS : 2 * ROUNDS]
        return cls(operation, strength.float(), uniform[:, 2 * ROUNDS :].float())

    def of_samples(self, chosen: slice | Tensor) -> Operations:
        """Those of some images."""
        return Operations(*(getattr(self, field.name)[chosen] for field in fields(self)))


def strong(images: Tensor, operations: Operations) -> Tensor:
    """Both rounds of operations and the square: uint8 [N, 3, H, W] -> float32 [N, 3, H, W] of whole numbers, 0..255."""
    result = images.float()
    for turn in range(ROUNDS):
        result = apply(result, operations.operation[:, turn], operations.strength[:, turn])
    return _with_square(result, operations.square)


def apply(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """One operation on each image [N, 3, H, W]; every kind of operation sees all images and changes its own alone."""

    def chosen(name: str, value: Tensor | float, other: float) -> Tensor:
        """`value` for images of this operation, else what leaves them alone."""
        return torch.where(operation == NAMES.index(name), value, other)[:, None, None, None]

    images = _moved(images, operation, strength)
    images = _blended(images, operation, strength)
    unit = chosen("posterize", 2.0 ** (8 - strength.floor()), 1.0)
    images = (images / unit).floor() * unit
    images = torch.where(images >= chosen("solarize", strength, 256.0), 255 - images, images)
    images = torch.where(chosen("auto_contrast", 1.0, 0.0) > 0, _auto_contrast(images), images)
    return torch.where(chosen("equalize", 1.0, 0.0) > 0, _equalized(images), images)


def _moved(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Rotation about the center, shear and translation: each pixel takes the nearest one of an affine map, or black."""
    height, width = images.shape[2:]

    def of(name: str) -> Tensor:
        return torch.where(operation == NAMES.index(name), strength, 0.0)[:, None, None]

    y = (torch.arange(height, device=images.device) + 0.5)[:, None]
    x = torch.arange(width, device=images.device) + 0.5
    angle = of("rotate").deg2rad()
    x0, y0 = x - width / 2, y - height / 2
    from_x = width / 2 + angle.cos() * x0 - angle.sin() * y0 + of("shear_x") * y + of("translate_x") * width
    from_y = height / 2 + angle.sin() * x0 + angle.cos() * y0 + of("shear_y") * x + of("translate_y") * height
    # Half a unit in the last place decides whether an image that is not moved stays whole.
    column, row = (from_x + 1e-4).floor().long(), (from_y + 1e-4).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    places = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten(1)[:, None]
    taken = images.flatten(2).gather(2, places.expand(-1, images.shape[1], -1)).view_as(images)
    return torch.where(inside[:, None], taken, 0.0)


def _blended(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Brightness, color, contrast and sharpness: towards black, gray, the mean gray and the smoothed image."""
    gray = (images * by_channel(LUMINANCE, images.device)).sum(dim=1, keepdim=True).round()
    weights = images.new_ones(3, 1, 3, 3)
    weights[:, :, 1, 1] = 5
    smooth = images.clone()  # Pillow leaves the border as it is
    smooth[:, :, 1:-1, 1:-1] = (F.conv2d(images, weights, groups=3) / 13).round()
    towards = {
        "brightness": torch.zeros_like(images),
        "color": gray.expand_as(images),
        "contrast": gray.mean(dim=(2, 3), keepdim=True).round().expand_as(images),
        "sharpness": smooth,
    }
    for name, other in towards.items():
        factor = torch.where(operation == NAMES.index(name), strength, 1.0)[:, None, None, None]
        images = (other + (images - other) * factor + 1e-3).floor()
    return images


def _auto_contrast(images: Tensor) -> Tensor:
    """Each channel stretched to 0..255."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    stretched = ((images - low) * (255 / (high - low).clamp(min=1)) + 1e-3).floor().clamp(0, 255)
    return torch.where(high > low, stretched, images)


def _equalized(images: Tensor) -> Tensor:
    """Each channel with a uniform histogram, as far as that goes."""
    flat = images.long().flatten(0, 1).flatten(1)
    histogram = torch.zeros(len(flat), 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, flat, torch.ones_like(flat))
    last = histogram.gather(1, flat.amax(dim=1, keepdim=True))
    step = (flat.shape[1] - last) // 255
    before = histogram.cumsum(dim=1) - histogram
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    result = torch.where(step > 0, table.gather(1, flat), flat)
    return result.view(images.shape).to(images.dtype)


def _with_square(images: Tensor, square: Tensor) -> Tensor:
    """The images with a gray square around a random center; it is cut off at the border."""
    height, width = images.shape[2:]
    side = square[:, 0] * LARGEST * width

    def covered(center: Tensor, size: int) -> Tensor:
        first = (center * size - side / 2).clamp(min=0).floor()
        places = torch.arange(size, device=images.device)
        return (places >= first[:, None]) & (places <= (first + side)[:, None])

    inside = covered(square[:, 1], height)[:, :, None] & covered(square[:, 2], width)[:, None]
    return torch.where(inside[:, None], by_channel(GRAY, images.device), images)
