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
from .order import Key


def training(data: ImageSet, image: ResizedCrop) -> Any:
    """timm's training transform: PIL image -> normalised float32 [3, size, size]."""
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
    """timm's validation transform: shorter side to `val_resize`, centre crop of `size`."""
    from timm.data.transforms_factory import create_transform

    return create_transform(
        image.size,
        interpolation=image.interpolation,
        mean=data.mean,
        std=data.std,
        crop_pct=image.size / (image.val_resize + 0.5),  # timm takes size / crop_pct, rounded down, for val_resize
    )


class Files(Dataset[tuple[Tensor, int, int] | DataError]):
    """Normalised image [3, H, W], label and position; what augmentation draws depends on the key alone."""

    def __init__(self, split: FileSplit, transform: Any) -> None:
        self.split, self.transform = split, transform

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int] | DataError:
        i = key[-1] % len(self.split)
        try:
            image = self.split.load(i)
        except DataError as error:
            return error
        with drawing(key):
            return self.transform(image), int(self.split.labels[i]), i


@contextmanager
def drawing(seed: tuple[int, ...]) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators, all of which timm draws from, and restore them afterwards."""
    python, numpy, own = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.random.set_rng_state(own)
