"""Batches of image files: reproducible whatever draws them, and torchvision's at validation."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from kdbench.datasets import DataError, open_images
from kdbench.datasets.base import FileSplit, ImageSet
from kdbench.errors import SpecError
from kdbench.methods.base import Batch, NetworkInfo, Outputs
from kdbench.networks.base import Network
from kdbench.spec.recipe import load_recipe
from kdbench.tasks import draws, image_files
from kdbench.tasks.classification import ClassificationTask
from tests.helpers.image_files import CPU, STRONG, batches, by_index, recipe_of, task_of
from tests.helpers.tensors import equal

CLASSES = {"ant": 4, "bee": 4, "cat": 3}
SIZES = [(30, 24), (24, 31), (28, 28), (40, 22), (10, 12)]  # widths and heights; the last is below every crop


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven smooth PNG images to train on and five to validate on, in three classes and of five shapes."""
    root = tmp_path_factory.mktemp("images") / "insects"
    draw = np.random.default_rng(0)
    for split, fewer in (("train", 0), ("val", 2)):
        number = 0
        for name, count in CLASSES.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count - fewer):
                coarse = Image.fromarray(draw.integers(70, 190, (5, 5, 3), dtype=np.uint8))  # bicubic: inside 0..255
                picture = coarse.resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC)
                picture.save(root / split / name / f"{i}.png")
                number += 1
    return root


@pytest.fixture(scope="module")
def data(path: Path) -> ImageSet:
    return open_images("imagenet", path.parent, path)


def state() -> list[Any]:
    """What Python's, NumPy's and torch's generators would draw from next."""
    kind, key, *rest = np.random.get_state()
    return [random.getstate(), kind, key.tolist(), rest, torch.get_rng_state().tolist()]


@pytest.mark.parametrize("image", [{}, STRONG, {"color_jitter": 0.4}, {"mixup": 0.8, "cutmix": 1.0}], ids=str)
def test_batches_are_the_same_with_and_without_workers(image: dict[str, Any], data: ImageSet) -> None:
    alone = batches(task_of(data, **image))
    assert [len(batch.inputs) for batch in alone] == [4, 4, 3]
    assert equal(alone, batches(task_of(data, workers=2, **image)))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_after_the_first_few_are_those_of_the_epoch(workers: int, data: ImageSet) -> None:
    whole = batches(task_of(data, mixup=0.8, cutmix=1.0))
    skipping = task_of(data, workers=workers, mixup=0.8, cutmix=1.0)
    for skip in (1, 2):
        assert equal(list(skipping.batches(0, CPU, skip=skip)), whole[skip:])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_neither_depend_on_global_random_states_nor_move_them(workers: int, data: ImageSet) -> None:
    task = task_of(data, workers=workers, mixup=0.8, cutmix=1.0, color_jitter=0.4, random_erasing=0.5)
    streams = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = state()
        streams.append(batches(task))
        task.evaluate(Counting(3), CPU, reference=True)
        assert state() == before
    assert equal(*streams)


@pytest.mark.parametrize(
    "image", [{}, {"interpolation": "bicubic"}, STRONG, {"color_jitter": 0.4, "random_erasing": 0.5}], ids=str
)
def test_training_images_are_those_of_timms_transform_to_the_last_bit(image: dict[str, Any], data: ImageSet) -> None:
    """8-bit pixels that the device normalizes, with the noise of random erasing: nothing of the result changes."""
    transform = image_files.training(data, recipe_of(**image).image)
    assert isinstance(data.train, FileSplit)
    task = task_of(data, **image)
    found = by_index(batches(task))
    keys = task._epoch(0, "train").keys()
    assert len(keys) == 11
    for key in keys:
        i = key[-1] % 11
        with draws.kept():
            draws.seed(key)
            assert torch.equal(found[i], transform(data.train.load(i)))


def test_validation_images_are_those_of_timms_transform_to_the_last_bit(data: ImageSet) -> None:
    transform = image_files.validation(data, recipe_of().image)
    assert isinstance(data.val, FileSplit)
    ((images, _),) = task_of(data).images.val_batches(5, CPU)
    assert all(torch.equal(image, transform(data.val.load(i))) for i, image in enumerate(images))


def test_epochs_seeds_and_streams_differ_in_order_and_augmentation(data: ImageSet) -> None:
    task = task_of(data, flip=0.0)
    streams = [batches(task), batches(task, 1), batches(task_of(data, seed=6, flip=0.0)), batches(task, 0, "prepare")]
    orders = {tuple(i for batch in one for i in batch.index.tolist()) for one in streams}
    assert len(orders) == 4 and all(sorted(order) == list(range(11)) for order in orders)
    for i, one in enumerate(streams):
        for other in streams[i + 1 :]:
            assert not any(torch.equal(by_index(one)[n], by_index(other)[n]) for n in range(11))
    assert equal(streams[1], batches(task, 1))


@pytest.mark.parametrize("image", [{}, {"mixup": 0.8, "cutmix": 1.0}], ids=str)
def test_epochs_of_a_number_of_steps_go_round_the_files_without_end(image: dict[str, Any], data: ImageSet) -> None:
    task = task_of(data, epoch_steps=2, **image)
    epochs = [batches(task, epoch) for epoch in range(11)]  # 88 samples: eight rounds
    assert task.steps_per_epoch == 2 and all([len(batch.inputs) for batch in epoch] == [4, 4] for epoch in epochs)
    stream = [i for epoch in epochs for batch in epoch for i in batch.index.tolist()]
    assert all(sorted(stream[i : i + 11]) == list(range(11)) for i in range(0, 88, 11))
    images = torch.cat([batch.inputs for epoch in epochs for batch in epoch]).flatten(1)
    assert len(images.unique(dim=0)) == 88  # each crop and each mix is drawn anew
    assert all(equal(epochs[epoch], batches(task_of(data, epoch_steps=2, **image), epoch)) for epoch in (0, 5, 10))


def test_an_endless_stream_of_files_is_the_same_however_it_is_cut_into_epochs(data: ImageSet) -> None:
    whole, cut = task_of(data, epoch_steps=6), task_of(data, epoch_steps=2)
    assert equal(batches(whole, 1), [batch for epoch in (3, 4, 5) for batch in batches(cut, epoch)])
    assert equal(batches(task_of(data, batch_size=11), 2), batches(task_of(data, batch_size=11, epoch_steps=1), 2))


def test_the_index_says_which_file_and_the_target_which_folder(data: ImageSet, path: Path) -> None:
    task = task_of(data)
    assert isinstance(data.train, FileSplit)
    for batch in batches(task):
        for i, target in zip(batch.index.tolist(), batch.targets.tolist(), strict=True):
            assert data.train.files[i].parent.name == data.classes[target] == list(CLASSES)[target]
    assert task.train_targets.tolist() == [0] * 4 + [1] * 4 + [2] * 3
    # A crop of the whole image, unflipped and resized, is that file.
    whole = by_index(batches(task_of(data, flip=0.0, scale=(1.0, 1.0))))
    square = data.train.load(2)
    assert square.size == (28, 28)
    torch.testing.assert_close(whole[2], expected(square, 16, 16, "bilinear"), rtol=0, atol=1.5 / 255 / 0.224)


def expected(image: Image.Image, shorter: int, size: int, mode: str) -> torch.Tensor:
    """torchvision's resize and center crop, on a tensor instead of a PIL image."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    interpolation = functional.InterpolationMode(mode)
    resized = functional.resize(pixels, [shorter], interpolation=interpolation, antialias=True).clamp(0, 255)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return functional.normalize(functional.center_crop(resized, [size, size]) / 255, mean, std)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "val_resize"), [(16, 20), (16, 16), (24, 59), (15, 22)])
def test_validation_resizes_the_shorter_side_and_crops_the_centre(
    size: int, val_resize: int, mode: str, data: ImageSet
) -> None:
    transform = image_files.validation(data, recipe_of(size=size, val_resize=val_resize, interpolation=mode).image)
    assert isinstance(data.val, FileSplit)
    for i in range(len(data.val)):
        found = transform(data.val.load(i))
        assert found.shape == (3, size, size)
        wanted = expected(data.val.load(i), val_resize, size, mode)
        torch.testing.assert_close(found, wanted, rtol=0, atol=2.1 / 255 / 0.224)  # PIL rounds after each direction


@pytest.mark.parametrize("size", [16, 24, 176, 224, 256, 288])
def test_validation_resizes_to_what_the_recipe_says_whatever_the_crop(size: int, data: ImageSet) -> None:
    for val_resize in range(size, 2 * size):
        resize = image_files.validation(data, recipe_of(size=size, val_resize=val_resize).image).transforms[0]
        assert resize.size == val_resize


class Counting(Network):
    """Answers every image with the first class, and keeps what it was shown."""

    info = NetworkInfo(channels=())

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.shown: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, targets: Any = None) -> Outputs:
        assert not self.training
        self.shown.append(x)
        logits = torch.zeros(len(x), self.num_classes)
        logits[:, 0] = 1
        return Outputs(logits, ())


@pytest.mark.parametrize("workers", [0, 2])
def test_every_validation_image_is_counted_once_in_any_epoch(workers: int, data: ImageSet) -> None:
    network, task = Counting(3), task_of(data, workers=workers, flip=1.0, **STRONG)
    assert task.evaluate(network, CPU, reference=True) == {"top1": pytest.approx(100 * 2 / 5)}
    (images,) = network.shown
    assert isinstance(data.val, FileSplit)
    for i, image in enumerate(images):  # in order, and nothing of the training augmentation
        torch.testing.assert_close(image, expected(data.val.load(i), 20, 16, "bilinear"), rtol=0, atol=0.04)


def test_training_crops_have_the_recipes_size_also_where_images_are_smaller(data: ImageSet) -> None:
    task = task_of(data, size=48, val_resize=48)
    assert task.image_size == (48, 48)
    for batch in batches(task):
        assert batch.inputs.shape[1:] == (3, 48, 48) and batch.inputs.isfinite().all()
    network = Counting(3)
    task.evaluate(network, CPU, reference=True)
    assert network.shown[0].shape == (5, 3, 48, 48)


@pytest.mark.parametrize(
    "image", [{"color_jitter": 0.4}, {"rand_augment": "rand-m9-mstd0.5"}, {"random_erasing": 1.0}, STRONG], ids=str
)
def test_stronger_augmentation_works_and_is_reproducible(image: dict[str, Any], data: ImageSet) -> None:
    strong = batches(task_of(data, **image))
    assert equal(strong, batches(task_of(data, **image)))
    assert all(batch.inputs.isfinite().all() and batch.inputs.dtype == torch.float32 for batch in strong)
    plain = by_index(batches(task_of(data)))
    same = [torch.equal(plain[i], changed) for i, changed in by_index(strong).items()]
    assert sum(same) < 6  # each of two operations of RandAugment is left out half the time


def test_random_erasing_replaces_a_part_by_noise(data: ImageSet) -> None:
    plain = by_index(batches(task_of(data)))
    for i, erased in by_index(batches(task_of(data, random_erasing=1.0))).items():
        changed = (erased != plain[i]).any(0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        assert 0 < changed.float().mean() < 0.5
        assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()  # one rectangle


def test_a_flip_mirrors_the_crop(data: ImageSet) -> None:
    """Crops are drawn before flips and from another generator, so they stay."""
    plain, mirrored = by_index(batches(task_of(data, flip=0.0))), by_index(batches(task_of(data, flip=1.0)))
    assert all(torch.equal(mirrored[i], plain[i].flip(2)) for i in range(11))
    half = by_index(batches(task_of(data, flip=0.5)))
    assert 0 < sum(torch.equal(half[i], plain[i]) for i in range(11)) < 11


def own_shares(batch: Batch, labels: torch.Tensor) -> list[tuple[int, int, float]]:
    """Of every image whose partner, at the mirrored place of the batch, is of another class: place, partner, share."""
    pairs = [(i, len(labels) - 1 - i) for i in range(len(labels))]
    for i, j in pairs:
        wanted = {int(labels[i]), int(labels[j])}
        assert set(batch.targets[i].nonzero()[:, 0].tolist()) <= wanted
    return [(i, j, float(batch.targets[i, labels[i]])) for i, j in pairs if labels[i] != labels[j]]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_and_targets_hold_the_same_share_of_their_partner(kind: str, data: ImageSet) -> None:
    shares: list[set[float]] = [set() for _ in range(4)]
    for epoch in range(4):
        plain = batches(task_of(data, drop_last=True), epoch)
        mixed = batches(task_of(data, drop_last=True, **{kind: 1.0}), epoch)
        for before, after in zip(plain, mixed, strict=True):
            assert torch.equal(before.index, after.index)
            assert after.targets.shape == (4, 3) and after.targets.dtype == torch.float32
            torch.testing.assert_close(after.targets.sum(1), torch.ones(4))
            for i, j, share in own_shares(after, before.targets):
                own, other, found = before.inputs[i], before.inputs[j], after.inputs[i]
                if kind == "mixup":
                    torch.testing.assert_close(found, share * own + (1 - share) * other)
                else:
                    kept = (found == own).all(0)
                    assert torch.equal(torch.where(kept, own, other), found)
                    assert kept.float().mean() == pytest.approx(share, abs=1e-6)
                shares[epoch].add(round(share, 4))
    assert len(set().union(*shares)) >= 4 and any(len(one) == 2 for one in shares)  # drawn anew for every batch


def test_mixing_both_ways_takes_each_for_some_batches_and_is_reproducible(data: ImageSet) -> None:
    both = {"mixup": 0.8, "cutmix": 1.0, "batch_size": 4}
    task, cut = task_of(data, **both), 0
    mixed = [batch for epoch in range(6) for batch in batches(task, epoch)[:2]]
    plain = [batch for epoch in range(6) for batch in batches(task_of(data), epoch)[:2]]
    for before, after in zip(plain, mixed, strict=True):
        pieces = (after.inputs == before.inputs) | (after.inputs == before.inputs.flip(0))
        cut += bool(pieces.all())
    assert 0 < cut < 12
    again = task_of(data, **both)
    assert equal(mixed, [batch for epoch in range(6) for batch in batches(again, epoch)[:2]])


def test_a_last_batch_of_an_odd_number_stays_unmixed(data: ImageSet) -> None:
    plain, mixed = batches(task_of(data)), batches(task_of(data, mixup=1.0))
    assert [batch.targets.ndim for batch in mixed] == [2, 2, 1]
    assert equal(plain[2:], mixed[2:])
    assert not torch.equal(plain[0].inputs, mixed[0].inputs)


def test_the_last_part_of_a_batch_is_kept_or_left_as_the_recipe_says(data: ImageSet) -> None:
    kept, left = task_of(data), task_of(data, drop_last=True)
    assert (kept.steps_per_epoch, left.steps_per_epoch) == (3, 2)
    assert equal(batches(kept)[:2], batches(left))


def test_a_share_of_the_files_goes_round_with_other_draws_until_the_epoch_is_as_long(path: Path) -> None:
    data = open_images("imagenet", path.parent, path, fraction=0.5)
    assert len(data.train) == 6 and data.epoch_images == 11
    task = task_of(data, flip=0.0, drop_last=True)
    assert task.steps_per_epoch == 2
    for drop_last, sizes in ((False, [4, 4, 3]), (True, [4, 4])):
        stream = batches(task_of(data, drop_last=drop_last))
        assert [len(batch.inputs) for batch in stream] == sizes
        index = torch.cat([batch.index for batch in stream]).tolist()
        assert sorted(index[:6]) == list(range(6)) and len(set(index[6:])) == len(index) - 6
        images = torch.cat([batch.inputs for batch in stream])
        again = [(index.index(i), n) for n, i in enumerate(index) if n >= 6]
        assert again and not any(torch.equal(images[n], images[m]) for n, m in again)
    assert equal(batches(task_of(data, mixup=1.0)), batches(task_of(data, mixup=1.0, workers=2)))


def test_channels_last_changes_the_layout_and_no_number(data: ImageSet) -> None:
    recipe = recipe_of(mixup=0.8)
    plain = batches(ClassificationTask(data, recipe, 5))
    last = batches(ClassificationTask(data, recipe.model_copy(update={"channels_last": True}), 5))
    assert equal(plain, last)
    assert all(batch.inputs.is_contiguous(memory_format=torch.channels_last) for batch in last)
    assert all(batch.inputs.is_contiguous() for batch in plain)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_one_line_that_names_it_also_from_a_worker(workers: int, data: ImageSet, path: Path) -> None:
    broken = path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert isinstance(data.train, FileSplit)
    torn = FileSplit((*data.train.files[:-1], broken), data.train.labels)
    with pytest.raises(DataError) as raised:
        batches(task_of(replace(data, train=torn), workers=workers))
    assert str(raised.value).startswith(f"{broken}: cannot be decoded") and "\n" not in str(raised.value)


def test_a_validation_image_that_resizing_would_blow_up_is_named(data: ImageSet, path: Path) -> None:
    thin = path / "thin.png"
    Image.new("RGB", (1, 5000)).save(thin)
    assert isinstance(data.val, FileSplit)
    task = task_of(replace(data, val=FileSplit((thin,), data.val.labels[:1])), val_resize=256, size=224)
    with pytest.raises(DataError, match=r"thin\.png: is 1x5000 pixels and would have more than 100 million .* to 256"):
        next(iter(task.images.val_batches(1, CPU)))


@pytest.mark.parametrize("image", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_an_odd_batch_is_refused_where_images_are_mixed_in_pairs(image: dict[str, float], data: ImageSet) -> None:
    with pytest.raises(SpecError, match="imagenet_b1: batch_size 5 is odd, .*--set batch_size="):
        task_of(data, batch_size=5, **image)
    assert task_of(data, batch_size=5).steps_per_epoch == 3


def test_a_batch_larger_than_the_folder_is_refused(data: ImageSet, path: Path) -> None:
    with pytest.raises(SpecError, match=f"batch_size 12 is above the 11 training images of {path}; .*--set batch_size"):
        task_of(data, batch_size=12)


def test_a_recipe_for_small_images_is_refused_for_files(data: ImageSet, path: Path) -> None:
    wrong = f"recipe cifar_240: image.kind padded_crop does not fit {path}, which needs resized_crop; choose a recipe"
    with pytest.raises(SpecError, match=wrong):
        ClassificationTask(data, load_recipe("cifar_240", {"batch_size": 4}), 0)
