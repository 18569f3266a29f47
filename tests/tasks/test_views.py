"""Further views of the images of a batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from kdbench import datasets
from kdbench.errors import SpecError
from kdbench.methods.base import VIEWS, Batch
from kdbench.spec.recipe import load_recipe
from kdbench.tasks import rand_augment
from kdbench.tasks.classification import ClassificationTask
from kdbench.tasks.rand_augment import NAMES, OPERATIONS, Operations
from kdbench.tasks.shard import WHOLE, Shard
from kdbench.train.micro_batches import micro_batches
from tests.helpers.tensors import equal

CPU = torch.device("cpu")
SIDE = 32
Edit = Callable[[Image.Image, float], Image.Image]

PILLOW: dict[str, Edit] = {
    "auto_contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "identity": lambda image, _: image,
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "rotate": lambda image, v: image.rotate(v),
    "shear_x": lambda image, v: image.transform(image.size, Image.Transform.AFFINE, (1, v, 0, 0, 1, 0)),
    "shear_y": lambda image, v: image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0, v, 1, 0)),
    "translate_x": lambda image, v: image.transform(image.size, Image.Transform.AFFINE, (1, 0, v * SIDE, 0, 1, 0)),
    "translate_y": lambda image, v: image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, v * SIDE)),
    "solarize": lambda image, v: ImageOps.solarize(image, v),
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth and noisy pictures, uint8 [6, 3, 32, 32]."""
    rng = np.random.default_rng(0)
    waves = np.add.outer(np.arange(SIDE) * 3, np.arange(SIDE) * 4)[None, None] + rng.integers(0, 60, (3, 3, 1, 1))
    noise = rng.integers(0, 256, (3, 3, SIDE, SIDE))
    return torch.from_numpy(np.concatenate([waves.clip(0, 255), noise]).astype(np.uint8))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> ClassificationTask:
    data = datasets.open_images("digits", tmp_path_factory.mktemp("data"), train=30, val=10)
    return ClassificationTask(data, load_recipe("cifar_mini", {"batch_size": 8}), 0)


def batches(task: ClassificationTask, views: tuple[str, ...] = (), shard: Shard = WHOLE, epoch: int = 0) -> list[Batch]:
    return list(task.batches(epoch, CPU, shard=shard, views=views))


@pytest.mark.parametrize(("name", "low", "high"), OPERATIONS)
def test_each_operation_is_pillow_s(name: str, low: float, high: float, images: Tensor) -> None:
    for share in (0.0, 0.31, 0.77):
        strength = low + share * (high - low)
        operation = torch.full((len(images),), NAMES.index(name))
        found = rand_augment.apply(images.float(), operation, torch.full((len(images),), strength))
        edited = [PILLOW[name](Image.fromarray(image.permute(1, 2, 0).numpy()), strength) for image in images]
        expected = torch.from_numpy(np.stack([np.asarray(image) for image in edited])).permute(0, 3, 1, 2)
        difference = (found - expected).abs()
        moved = name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
        # Nearest pixels of an affine map differ where rounding decides, color by 1.
        assert (difference > (0 if moved else 1)).float().mean() < (0.02 if moved else 1e-9)
        assert (found == found.round()).all() and found.min() >= 0 and found.max() <= 255


def test_a_square_of_at_most_half_a_side_is_gray_and_all_operations_are_drawn(images: Tensor) -> None:
    uniform = torch.rand(4000, rand_augment.DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    operations = Operations.of(uniform)
    counts = torch.bincount(operations.operation.flatten(), minlength=len(NAMES))
    assert counts.min() > 450 and len(counts) == 14
    gray = torch.tensor(rand_augment.GRAY)[:, None, None]
    found = rand_augment.strong(torch.zeros(4000, 3, SIDE, SIDE, dtype=torch.uint8), operations)
    covered = (found == gray).all(dim=1).flatten(1).sum(dim=1)
    assert covered.min() >= 1 and 200 < covered.max() <= (SIDE // 2 + 1) ** 2
    chosen = operations.of_samples(slice(2, 5))
    assert torch.equal(chosen.strength, operations.strength[2:5])


def test_neither_the_batch_nor_a_view_depends_on_the_others(task: ClassificationTask) -> None:
    plain, every, one = batches(task), batches(task, VIEWS), batches(task, ("rotated_180",))
    for alone, with_all, with_one in zip(plain, every, one, strict=True):
        assert not alone.views and list(with_all.views) == list(VIEWS)
        for name in ("inputs", "targets", "index"):
            assert torch.equal(getattr(alone, name), getattr(with_all, name))
        assert equal(with_one.views["rotated_180"], with_all.views["rotated_180"])
        assert all(torch.equal(view.index, alone.index) for view in with_all.views.values())
        inputs = [with_all.inputs, *(view.inputs for view in with_all.views.values())]
        assert not any(torch.equal(a, b) for i, a in enumerate(inputs) for b in inputs[:i])
    later = batches(task, VIEWS, epoch=1)
    assert not torch.equal(later[0].views["strong"].inputs, every[0].views["strong"].inputs)


def test_rotated_views_are_rotated_crops_with_the_flip_of_the_batch(tmp_path: Path) -> None:
    data = datasets.open_images("digits", tmp_path, train=30, val=10)
    task = ClassificationTask(data, load_recipe("cifar_mini", {"batch_size": 8, "image.padding": 0}), 0)
    for batch in batches(task, VIEWS):  # without padding there is one crop
        for turns in (1, 2, 3):
            view = batch.views[f"rotated_{90 * turns}"]
            torch.testing.assert_close(view.inputs, torch.rot90(batch.inputs, turns, dims=(2, 3)))


def test_processes_and_micro_batches_divide_views_as_the_batch(task: ClassificationTask) -> None:
    whole = batches(task, VIEWS)
    halves = [batches(task, VIEWS, Shard(rank, 2)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        parts = [part for part, _ in micro_batches(batch, 4)]
        for name, view in batch.views.items():
            assert torch.equal(torch.cat([first.views[name].inputs, second.views[name].inputs]), view.inputs)
            assert torch.equal(torch.cat([part.views[name].inputs for part in parts]), view.inputs)
            assert torch.equal(parts[1].views[name].index, parts[1].index)


def test_an_interrupted_epoch_goes_on_with_the_same_views(task: ClassificationTask) -> None:
    assert equal(list(task.batches(0, CPU, skip=2, views=VIEWS)), batches(task, VIEWS)[2:])
    stream = islice(task.endless(CPU, "prepare", views=VIEWS), 2)
    assert not any(torch.equal(a.inputs, b.inputs) for a, b in zip(stream, batches(task, VIEWS), strict=False))


def test_tasks_on_files_have_no_views() -> None:
    from kdbench.tasks.detection import DetectionTask

    with pytest.raises(SpecError, match=r"mlkd reads further views of each image \(strong\), which are made of"):
        DetectionTask.check_views(object.__new__(DetectionTask), ("strong",), "mlkd")
