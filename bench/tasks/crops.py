"""Images and their masks at a random scale, cropped at random and flipped, as CIRKD's loaders do it.

From the released loaders (winycg/CIRKD and hunto/DIST_KD, `dataset/`): one of 16 scales, bilinear for the image without
antialiasing and nearest for the mask, padding at the right and bottom, uniform crop positions, flips with probability
0.5. They scale the whole image and crop afterwards; here the part that fills the crop at that scale is cut out first,
in whole pixels, and then resized: equal up to half a stored pixel, at a fraction of the work.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kdbench.datasets.base import IGNORE_INDEX

from ..spec.recipe import ScaledCrop


def scaled_crop(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], crop: ScaledCrop, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A crop of an image and its mask. Scale, row, column and flip are drawn in an order that never changes.

    Args:
        image: [H, W, 3].
        mask: [H, W].
        crop: size, and the distributions of the draws.
        rng: for the draws.

    Returns:
        uint8 [3, height, width], uint8 [height, width] and bool [1, height, width]: the image, the mask, and where
        they are not padding. Padding is 0 in the image and `IGNORE_INDEX` in the mask.
    """
    factor = draw_scale(crop, rng)
    rows, height = _span(mask.shape[0], crop.height, factor)
    columns, width = _span(mask.shape[1], crop.width, factor)
    top, left = int(rng.integers(mask.shape[0] - rows + 1)), int(rng.integers(mask.shape[1] - columns + 1))
    part = slice(top, top + rows), slice(left, left + columns)
    pixels = torch.tensor(image[part]).permute(2, 0, 1)[None]
    pixels = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)[0]
    nearest = np.arange(height) * rows // height, np.arange(width) * columns // width
    classes = torch.from_numpy(mask[part][nearest[0]][:, nearest[1]])
    inside = torch.ones(1, height, width, dtype=torch.bool)
    if (height, width) != (crop.height, crop.width):
        around = (0, crop.width - width, 0, crop.height - height)
        pixels, inside = F.pad(pixels, around), F.pad(inside, around)
        classes = F.pad(classes, around, value=IGNORE_INDEX)
    if rng.random() < crop.flip:
        return pixels.flip(-1), classes.flip(-1), inside.flip(-1)
    return pixels, classes, inside


def draw_scale(crop: ScaledCrop, rng: np.random.Generator) -> float:
    """A random factor on both sides of an image."""
    low, high = crop.scale
    steps = crop.scale_steps
    share = rng.random() if steps is None else rng.integers(steps + 1) / max(steps, 1)
    return float(low + (high - low) * share)


def _span(stored: int, wanted: int, factor: float) -> tuple[int, int]:
    """Pixels of a side that fill `wanted` pixels at a scale, and their number after scaling: less if it is short."""
    span = max(1, round(wanted / factor))
    return (span, wanted) if span <= stored else (stored, max(1, round(stored * factor)))
