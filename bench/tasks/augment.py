"""Augmentation of small images in whole batches, on the device that holds them.

The draws of an epoch are made at once, from one NumPy generator, in this order: the order of the samples, then every
sample's crop row, crop column and flip. Results depend on it, so it never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import order


@dataclass(frozen=True)
class Draws:
    """The random draws of an epoch of n samples: positions in the training set, crop offsets and flips, each [n]."""

    index: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor


def draw(seed: tuple[int, ...], samples: int, count: int, padding: int, flip: float, device: torch.device) -> Draws:
    """The draws of one epoch.

    Args:
        seed: of this epoch; equal seeds give equal draws on every device.
        samples: size of the training set.
        count: samples the epoch takes; if more than `samples`, the set is gone through again, in another order.
        padding: pixels added on each side, so offsets are 0 to twice that.
        flip: probability of a mirrored image.
        device: of the draws.
    """
    rng = np.random.default_rng(seed)
    index = order.permuted(rng, samples, count) % samples
    top, left = rng.integers(0, 2 * padding + 1, size=(2, count))
    mirrored = rng.random(count) < flip
    return Draws(*(torch.from_numpy(values).to(device) for values in (index, top, left, mirrored)))


def draw_parts(
    seed: tuple[int, int], samples: int, parts: Sequence[order.Part], padding: int, flip: float, device: torch.device
) -> Draws:
    """The draws of an epoch in parts: of each part those that `draw` makes with its turn in the seed."""
    drawn = [(draw((*seed, part.turn), samples, part.size, padding, flip, device), part.chosen) for part in parts]
    return Draws(
        *(torch.cat([getattr(draws, field.name)[chosen] for draws, chosen in drawn]) for field in fields(Draws))
    )


def pad(images: Tensor, padding: int) -> Tensor:
    """uint8 [N, H, W, 3] -> [N, H + 2 padding, W + 2 padding, 3], zeros around."""
    return F.pad(images, (0, 0, padding, padding, padding, padding))


def crop(padded: Tensor, draws: Draws, chosen: slice | Tensor, height: int, width: int) -> Tensor:
    """The `chosen` samples of an epoch, cropped and mirrored: uint8 [B, 3, H, W] in channels-last order.

    Equal to torchvision's `RandomCrop` with that padding followed by `RandomHorizontalFlip`, for the same draws.

    Args:
        padded: the padded training set, uint8 [N, H + 2p, W + 2p, 3].
        draws: of the epoch.
        chosen: the samples of the batch.
        height: H of the images as stored.
        width: W likewise.
    """
    device = padded.device
    rows = draws.top[chosen, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(len(rows), width)
    columns = draws.left[chosen, None] + torch.where(draws.flip[chosen, None], width - 1 - columns, columns)
    images = padded[draws.index[chosen, None, None], rows[:, :, None], columns[:, None, :]]
    return images.permute(0, 3, 1, 2)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 [N, 3, H, W] -> float32, (x / 255 - mean) / std per channel, as torchvision's `Normalize`."""
    return images.float().div_(255).sub_(by_channel(mean, images.device)).div_(by_channel(std, images.device))


@cache
def by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values as [1, 3, 1, 1], copied to the device once, because the host waits for the copy."""
    with torch.inference_mode(False):  # evaluation may come first, and training needs a normal tensor
        return torch.tensor(values, device=device).view(1, 3, 1, 1)


def reduce_resolution(images: Tensor, resolution: int) -> Tensor:
    """Images averaged down to `resolution` pixels a side and resized back bilinearly, [N, 3, H, W] -> [N, 3, H, W]."""
    small = F.adaptive_avg_pool2d(images, resolution)
    return F.interpolate(small, images.shape[2:], mode="bilinear", align_corners=False)
