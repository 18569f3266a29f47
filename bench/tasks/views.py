"""Further views of the images of a batch (`Method.views`), made where the images are held.

Each view has its own draws of an epoch, so that neither the batch nor another view depends on it: results depend on
them, so they never change.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench.methods.base import VIEWS

from ..spec.recipe import PaddedCrop
from . import augment, rand_augment
from .order import Epoch
from .rand_augment import Operations


class View:
    """One further view of the samples of an epoch.

    Args:
        name: one of VIEWS.
        epoch: of the stream.
        draws: of the epoch's first view, whose order it has.
        image: the recipe's augmentation.
    """

    def __init__(self, name: str, epoch: Epoch, draws: augment.Draws, image: PaddedCrop) -> None:
        self.name, self.epoch, self.image = name, epoch, image
        self.number = 1 + VIEWS.index(name)  # a seed that ends in 0 would be that of the first view
        device, first = draws.index.device, draws
        parts = [self._draw(part.turn, part.size, part.chosen) for part in epoch.parts]
        top, left, flip, operations = (np.concatenate(values) for values in zip(*parts, strict=True))
        self.draws = replace(first, top=torch.from_numpy(top).to(device), left=torch.from_numpy(left).to(device))
        if name == "strong":
            self.draws = replace(self.draws, flip=torch.from_numpy(flip).to(device))
        self._uniform = torch.from_numpy(operations)

    def _draw(self, turn: int, count: int, chosen: slice) -> tuple[NDArray[Any], ...]:
        rng = np.random.default_rng((*self.epoch.seed, turn, self.number))
        top, left = rng.integers(0, 2 * self.image.padding + 1, size=(2, count))
        flip = rng.random(count) < self.image.flip
        return top[chosen], left[chosen], flip[chosen], rng.random((count, rand_augment.DRAWS))[chosen]

    @cached_property
    def _operations(self) -> Operations:
        return Operations.of(self._uniform.to(self.draws.index.device))

    def images(self, padded: Tensor, chosen: slice | Tensor, size: tuple[int, int]) -> Tensor:
        """The `chosen` samples, uint8 [B, 3, H, W]; arguments as of `augment.crop`."""
        cropped = augment.crop(padded, self.draws, chosen, *size)
        if self.name == "strong":
            return rand_augment.strong(cropped, self._operations.of_samples(chosen))
        return torch.rot90(cropped, int(self.name.removeprefix("rotated_")) // 90, dims=(2, 3))
