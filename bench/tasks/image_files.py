"""Image files as batches: ImageNet's augmentation by timm, each sample's draws a function of its key."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdbench.datasets.base import DataError, FileSplit, ImageSet

from ..spec.recipe import ResizedCrop
from .loading import grouped, load
from .order import Epoch, Key

RESIZED = 10**8
"""Pixels of a resized validation image, before it is cropped."""


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
        self, epoch: Epoch, batch_size: int, device: torch.device, skip: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Augmented images [B, 3, H, W], targets and positions in the training set [B], without the first `skip`.

        Targets are labels [B], or float32 [B, K] where the images of a batch are mixed.
        """
        # The seeds of the images' draws end in numbers below this, those of the batches' draws in numbers from it on.
        drawn = -(-epoch.count // epoch.samples) * epoch.samples
        samples = Files(self.train, training(self.data, self.image))
        groups = grouped(epoch.keys(), batch_size)[skip:]
        mix = self._mix()
        for number, (images, labels, index) in enumerate(load(samples, groups, self.workers), skip):
            inputs, targets = images.to(device), labels.to(device)
            if mix is not None and len(inputs) % 2 == 0:  # an epoch's last, odd batch is not mixed: our choice
                with drawing((*epoch.seed, epoch.number, drawn + number)):
                    inputs, targets = mix(inputs, targets)
            yield inputs, targets, index.to(device)

    def val_batches(self, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [B, 3, H, W] and labels [B], in order."""
        samples = Files(self.val, validation(self.data, self.image), self.image.val_resize)
        groups = grouped([(0, i) for i in range(len(self.val))], batch_size)
        for images, labels, _ in load(samples, groups, self.workers):
            yield images.to(device), labels.to(device)

    def _mix(self) -> Any:
        """timm's Mixup and CutMix, which make targets [N, K] of labels [N]; None where the recipe has neither."""
        if not (self.image.mixup or self.image.cutmix):
            return None
        from timm.data.mixup import Mixup

        return Mixup(self.image.mixup, self.image.cutmix, label_smoothing=0.0, num_classes=len(self.data.classes))


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
    """timm's validation transform: shorter side to `val_resize`, center crop of `size`."""
    from timm.data.transforms_factory import create_transform

    return create_transform(
        image.size,
        interpolation=image.interpolation,
        mean=data.mean,
        std=data.std,
        crop_pct=image.size / (image.val_resize + 0.5),  # timm takes size / crop_pct, rounded down, for val_resize
    )


class Files(Dataset[tuple[Tensor, int, int] | DataError]):
    """Normalized image [3, H, W], label and position; the draws of augmentation depend on the key alone.

    Args:
        split: images.
        transform: PIL image -> tensor.
        shorter: what the shorter side is resized to before a crop, pixels; None for random crops.
    """

    def __init__(self, split: FileSplit, transform: Any, shorter: int | None = None) -> None:
        self.split, self.transform, self.shorter = split, transform, shorter

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int] | DataError:
        i = key[-1] % len(self.split)
        try:
            image = self.split.load(i)
            self._check_shape(i, image.size)
        except DataError as error:
            return error
        with drawing(key):
            return self.transform(image), int(self.split.labels[i]), i

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


@contextmanager
def drawing(seed: tuple[int, ...]) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators, all of which timm draws from, and restore them afterwards."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)
