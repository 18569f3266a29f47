"""Image files as batches: ImageNet's augmentation by timm, each sample's draws a function of its key.

Loader processes send 8-bit pixels, a quarter of what normalized ones take; the device normalizes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdbench.datasets.base import DataError, FileSplit, ImageSet

from ..spec.recipe import ResizedCrop
from . import augment, draws
from .image_transforms import Erased, Pixels, training, validation
from .loading import Loader, grouped, load
from .order import Epoch, Key
from .shard import WHOLE, Shard

__all__ = ["FileImages", "Files", "training", "validation"]

RESIZED = 10**8
"""Pixels of a resized validation image, before it is cropped."""

Sample = tuple[Tensor, int, int, Erased | None]


class FileImages:
    """Training and validation images that are read from files when needed.

    Args:
        data: the image set, for its classes and statistics.
        train: training images.
        val: validation images.
        image: augmentation.
        workers: loader processes; the batches do not depend on it.
    """

    def __init__(self, data: ImageSet, train: FileSplit, val: FileSplit, image: ResizedCrop, workers: int) -> None:
        self.data, self.train, self.val, self.image, self.workers = data, train, val, image, workers

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the inputs."""
        return self.image.size, self.image.size

    def train_batches(
        self,
        epoch: Epoch,
        batch_size: int,
        device: torch.device,
        skip: int,
        shard: Shard,
        views: Sequence[str] = (),
    ) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """Augmented images [B, 3, H, W], targets and positions in the training set [B], without the first `skip`.

        There are no further views of files.

        Targets are labels [B], or float32 [B, K] where the images of a batch are mixed.
        """
        # The seeds of the images' draws end in numbers below this, those of the batches' draws in numbers from it on.
        drawn = -(-epoch.count // epoch.samples) * epoch.samples
        groups = [shard.of(keys) for keys in grouped(epoch.keys(), batch_size)[skip:]]
        mix = self._mix()
        for number, (pixels, targets, index, erased) in enumerate(self._loader.batches(groups, device), skip):
            inputs = self._normalized(pixels, erased)
            if mix is not None and len(inputs) % 2 == 0:  # an epoch's last, odd batch is not mixed: our choice
                with draws.kept():
                    draws.seed((*epoch.seed, epoch.number, drawn + number))
                    inputs, targets = mix(inputs, targets)
            yield [inputs], targets, index

    def val_batches(
        self, batch_size: int, device: torch.device, shard: Shard = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [B, 3, H, W] and labels [B], in order; of all batches, or of a shard's share of them."""
        samples = Files(Pixels(self.data, self.val, self.image, train=False), self.image.val_resize)
        groups = shard.share(grouped([(0, i) for i in range(len(self.val))], batch_size))
        for pixels, labels, _, erased in load(samples, groups, self.workers, _collate, device):
            yield self._normalized(pixels, erased), labels

    @cached_property
    def _loader(self) -> Loader:
        """Of training images; its processes stay from epoch to epoch."""
        return Loader(Files(Pixels(self.data, self.train, self.image, train=True)), self.workers, _collate)

    def _normalized(self, pixels: Tensor, erased: list[Erased | None]) -> Tensor:
        """uint8 [B, H, W, 3] -> normalized float32 [B, 3, H, W], with the noise of random erasing."""
        images = augment.normalize(pixels.permute(0, 3, 1, 2), self.data.mean, self.data.std)
        for image, part in zip(images, erased, strict=True):
            if part is not None:
                top, left, noise = part
                image[:, top : top + noise.shape[1], left : left + noise.shape[2]] = noise
        return images

    def _mix(self) -> Any:
        """timm's Mixup and CutMix, which make targets [N, K] of labels [N]; None where the recipe has neither."""
        if not (self.image.mixup or self.image.cutmix):
            return None
        from timm.data.mixup import Mixup

        return Mixup(self.image.mixup, self.image.cutmix, label_smoothing=0.0, num_classes=len(self.data.classes))


class Files(Dataset[Sample | DataError]):
    """Pixels [H, W, 3], label and position, and what is erased; the draws of augmentation depend on the key alone.

    It seeds the generators of its process.

    Args:
        pixels: of a split.
        shorter: what the shorter side is resized to before a crop, pixels; None for random crops.
    """

    def __init__(self, pixels: Pixels, shorter: int | None = None) -> None:
        self.pixels, self.split, self.shorter = pixels, pixels.split, shorter

    def __getitem__(self, key: Key) -> Sample | DataError:
        i = key[-1] % len(self.split)
        draws.seed(key)
        try:
            pixels, erased = self.pixels.load(i, lambda size: self._check_shape(i, size))
        except DataError as error:
            return error
        return pixels, int(self.split.labels[i]), i, erased

    def _check_shape(self, i: int, size: tuple[int, int]) -> None:
        """Reject an image so thin that it takes gigabytes once its shorter side is enlarged.

        Raises:
            DataError: names the file and its size.
        """
        if self.shorter is not None and self.shorter**2 * max(size) > RESIZED * min(size):
            raise DataError(
                f"{self.split.files[i]}: is {size[0]}x{size[1]} pixels and would have more than "
                f"{RESIZED // 10**6} million when its shorter side is resized to {self.shorter}; cut it into parts or "
                "remove it"
            )


def _collate(samples: list[Sample]) -> tuple[Tensor, Tensor, Tensor, list[Erased | None]]:
    pixels, labels, positions, erased = zip(*samples, strict=True)
    return torch.stack(pixels), torch.tensor(labels), torch.tensor(positions), list(erased)
