"""Small images as batches: held on the device as uint8 and augmented there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from kdbench.datasets.base import ArraySplit

from ..spec.recipe import PaddedCrop
from . import augment
from .order import Epoch
from .shard import WHOLE, Shard
from .views import View

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation per channel, RGB in 0..1."""


class ArrayImages:
    """Training and validation images held as arrays.

    Args:
        train: training images.
        val: validation images.
        image: augmentation.
        statistics: for normalization.
    """

    def __init__(self, train: ArraySplit, val: ArraySplit, image: PaddedCrop, statistics: Statistics) -> None:
        self.train, self.val, self.image, self.statistics = train, val, image, statistics
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the inputs."""
        return self.train.images.shape[1], self.train.images.shape[2]

    def train_batches(
        self,
        epoch: Epoch,
        batch_size: int,
        device: torch.device,
        skip: int,
        shard: Shard,
        views: Sequence[str] = (),
    ) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """Augmented images, labels [B] and positions in the training set [B], without the first `skip` batches.

        The images are [B, 3, H, W], with one more such tensor for each of `views`. B is of the shard of a batch.
        """
        padding, flip = self.image.padding, self.image.flip
        padded, labels = self._padded(device)
        draws = augment.draw_parts(epoch.seed, epoch.samples, epoch.parts, padding, flip, device)
        further = [View(name, epoch, draws, self.image) for name in views]
        for start in range(skip * batch_size, len(draws.index), batch_size):
            group = shard.positions(min(batch_size, len(draws.index) - start), start, device)
            images = [augment.crop(padded, draws, group, *self.size)]
            images += [view.images(padded, group, self.size) for view in further]
            index = draws.index[group]
            yield [augment.normalize(each, *self.statistics) for each in images], labels[index], index

    def val_batches(
        self, batch_size: int, device: torch.device, shard: Shard = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [B, 3, H, W] and labels [B], in order; of all batches, or of a shard's share of them."""
        pixels, labels = self._val_tensors
        for start in shard.share(range(0, len(labels), batch_size)):
            group = slice(start, start + batch_size)
            images = augment.normalize(pixels[group].to(device).permute(0, 3, 1, 2), *self.statistics)
            yield images, labels[group].to(device)

    @cached_property
    def _val_tensors(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.val.images), torch.from_numpy(self.val.labels)

    def _padded(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The padded training images and their labels, copied to the device once."""
        if device not in self._on_device:
            images = augment.pad(torch.from_numpy(self.train.images).to(device), self.image.padding)
            self._on_device[device] = images, torch.from_numpy(self.train.labels).to(device)
        return self._on_device[device]
