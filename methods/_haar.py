"""The Haar wavelet transform of feature maps, and its inverse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def haar(features: Tensor, levels: int) -> tuple[Tensor, list[Tensor]]:
    """A map in that many levels: [N, C, H, W] -> the last low band, and each level's bands, from the finest.

    A level of a low band of h x w, filled up with zeros to even sizes, has for every block of 2x2 values a, b above c,
    d the low band (a + b + c + d) / 2, and the bands [N, C, 3, h/2, w/2]: (a + b - c - d) / 2, (a - b + c - d) / 2 and
    (a - b - c + d) / 2.
    """
    bands = []
    for _ in range(levels):
        padded = F.pad(features, (0, features.shape[3] % 2, 0, features.shape[2] % 2))
        a, b = padded[:, :, 0::2, 0::2], padded[:, :, 0::2, 1::2]
        c, d = padded[:, :, 1::2, 0::2], padded[:, :, 1::2, 1::2]
        bands.append(torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=2) / 2)
        features = (a + b + c + d) / 2
    return features, bands


def inverse_haar(low: Tensor, bands: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The map of this height and width that `haar` turns into these bands."""
    for level in reversed(bands):
        low = low[..., : level.shape[3], : level.shape[4]]
        rows, columns, diagonal = level.unbind(dim=2)
        above = torch.stack([low + rows + columns + diagonal, low + rows - columns - diagonal], dim=4)
        below = torch.stack([low - rows + columns - diagonal, low - rows - columns + diagonal], dim=4)
        low = torch.stack([above.flatten(3), below.flatten(3)], dim=3).flatten(2, 3) / 2
    return low[..., : size[0], : size[1]]
