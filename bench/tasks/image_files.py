"""Image files as batches: ImageNet's augmentation by timm, each sample's draws a function of seed and position."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from bench.recipe import ResizedCrop
from datasets.base import DataError, FileSplit, ImageSet

Sample = tuple[Tensor, int, int]


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


def load(
    split: FileSplit, transform: Any, seed: tuple[int, ...], groups: list[list[int]], workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of normalised images [B, 3, H, W], labels [B] and positions [B], one for each of `groups`.

    Args:
        split: N files.
        transform: of one image.
        seed: of what the transform draws.
        groups: positions, one list a batch; position + N, + 2 N, ... is the same file under other draws.
        workers: processes; the batches do not depend on it.

    Raises:
        DataError: a file cannot be decoded; names it.
    """
    loader: DataLoader[Sample | DataError] = DataLoader(
        _Files(split, transform, seed),
        batch_sampler=groups,
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator(),  # else every iteration draws from torch's own
    )
    for batch in cast(Any, loader):
        if isinstance(batch, DataError):
            raise batch
        yield batch


class _Files(Dataset[Sample | DataError]):
    """What augmentation draws depends on seed and position alone, not on the worker.

    A broken file's error is handed on as a sample: raised in a worker, it would come wrapped in that one's traceback.
    """

    def __init__(self, split: FileSplit, transform: Any, seed: tuple[int, ...]) -> None:
        self.split, self.transform, self.seed = split, transform, seed

    def __getitem__(self, place: int) -> Sample | DataError:
        i = place % len(self.split)
        try:
            image = self.split.load(i)
        except DataError as error:
            return error
        with drawing((*self.seed, place)):
            return self.transform(image), int(self.split.labels[i]), i


def _collate(samples: list[Sample | DataError]) -> Any:
    """A batch, or the first error among its samples."""
    return next((sample for sample in samples if isinstance(sample, DataError)), None) or default_collate(samples)


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
