"""Batches of JPEG files at ImageNet's size as loader processes send them: 8-bit pixels beside normalized images.

The other side is what was done before: timm's transform up to normalized images, seeded for each of them, from a new
DataLoader every epoch. A GPU normalizes the pixels in less than a millisecond a batch, which is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader, Dataset

from kdbench.datasets import open_images
from kdbench.datasets.base import FileSplit, ImageSet
from kdbench.spec.recipe import load_recipe
from kdbench.tasks import draws
from kdbench.tasks.classification import ClassificationTask
from kdbench.tasks.image_files import FileImages
from kdbench.tasks.image_transforms import training
from kdbench.tasks.loading import grouped

from .conftest import Scope
from .turns import Work, in_turn, record

IMAGES, BATCH = 64, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Images of 500x375 pixels in two classes, of about 100 KB as ImageNet's: smooth, with some noise."""
    root, draw = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for i in range(IMAGES + 4):
        place = root / ("train" if i < IMAGES else "val") / f"class{i % 2}" / f"{i}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC))
        noisy = smooth + draw.normal(0, 8, smooth.shape[:2])[..., None]
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place, quality=92)
    return open_images("imagenet", root, root)


class Normalized(Dataset[Any]):
    """Normalized images, as timm's transform makes them by draws of a key."""

    def __init__(self, data: ImageSet) -> None:
        assert isinstance(data.train, FileSplit)
        self.split, self.transform = data.train, training(data, load_recipe("imagenet_b1").image)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int, int]:
        image = self.split.load(i)
        with draws.kept():
            draws.seed((0, 0, i))
            return self.transform(image), int(self.split.labels[i]), i


def normalized_batches(data: ImageSet, workers: int) -> Iterator[Any]:
    while True:  # a new loader every epoch
        yield from DataLoader(Normalized(data), BATCH, shuffle=True, num_workers=workers, drop_last=True)


def pixel_batches(task: ClassificationTask) -> Iterator[Any]:
    assert isinstance(task.images, FileImages)
    for epoch in count():
        groups = grouped(task._epoch(epoch, "train").keys(), BATCH)
        yield from task.images._loader.batches(groups, torch.device("cpu"))


@pytest.mark.parametrize("workers", [0, 1])
def test_image_files(workers: int, folder: ImageSet, benchmark: BenchmarkFixture, scope: Scope) -> None:
    """On one core without workers; with one beside this process, which takes the batches."""
    sides: dict[str, Work] = {}
    streams = {}
    for decoder in ("pillow", "torchvision"):
        recipe = load_recipe("imagenet_b1", {"batch_size": BATCH, "image.decoder": decoder})
        streams[decoder] = pixel_batches(ClassificationTask(folder, recipe, 0, workers))
    streams["before"] = normalized_batches(folder, workers)
    for name, stream in streams.items():
        sides[name] = lambda stream=stream: [next(stream) for _ in range(IMAGES // BATCH)]  # type: ignore[misc]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = in_turn(benchmark, scope.rounds(12), sides, warmup=1)
    finally:
        torch.set_num_threads(threads)
    for name in ("pillow", "torchvision"):
        record(benchmark, f"before / {name}", [one["before"] / one[name] for one in times])
        record(benchmark, f"images/s, {name}", [IMAGES / one[name] for one in times])
    record(benchmark, "images/s, before", [IMAGES / one["before"] for one in times])
