"""Batches and losses of classification on arrays; image files and evaluation have tests of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdbench import networks
from kdbench.datasets import open_images
from kdbench.datasets.base import ArraySplit, ImageSet
from kdbench.errors import SpecError
from kdbench.methods.base import Batch, NetworkInfo, Outputs
from kdbench.networks.base import Network
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.tasks import augment
from kdbench.tasks.classification import ClassificationTask
from tests.helpers.tensors import equal

CPU = torch.device("cpu")
CLASSES, TRAIN, VAL = 8, 26, 9


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 images to train on and 9 to validate on, of 8x8 pixels in 8 classes."""
    file = tmp_path_factory.mktemp("arrays") / "small.npz"
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (TRAIN + VAL, 8, 8, 3), dtype=np.uint8)
    labels = np.concatenate([np.arange(TRAIN) * 3 % CLASSES, draw.integers(0, CLASSES, VAL)])
    np.savez(file, x_train=images[:TRAIN], y_train=labels[:TRAIN], x_test=images[TRAIN:], y_test=labels[TRAIN:])
    return file


@pytest.fixture(scope="module")
def data(path: Path) -> ImageSet:
    return opened(path)


def opened(path: Path, **options: Any) -> ImageSet:
    return open_images("cifar100", path.parent, path, **options)


def recipe_of(padding: int = 2, flip: float = 0.5, **more: Any) -> Recipe:
    image = {"kind": "padded_crop", "padding": padding, "flip": flip}
    return load_recipe("cifar_240", {"batch_size": 8, "image": image, **more})


def task_of(data: ImageSet, seed: int = 5, **recipe: Any) -> ClassificationTask:
    return ClassificationTask(data, recipe_of(**recipe), seed)


def batches(task: ClassificationTask, epoch: int = 0, stream: str = "train") -> list[Batch]:
    return list(task.batches(epoch, CPU, stream))


def indices(stream: list[Batch]) -> list[int]:
    return [i for batch in stream for i in batch.index.tolist()]


def normalized(data: ImageSet, images: np.ndarray[Any, Any]) -> torch.Tensor:
    """uint8 [N, H, W, 3] as a network is shown it."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return augment.normalize(pixels, data.mean, data.std)


def test_batches_do_not_depend_on_what_was_drawn_before_and_draw_nothing_from_it(data: ImageSet) -> None:
    task = task_of(data)
    streams = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        stream = []
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        for batch in task.batches(0, CPU):
            assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
            torch.rand(seed)  # a student that draws between batches
            before = torch.get_rng_state(), before[1]
            stream.append(batch)
        streams.append(stream)
        batches(task, 3, "prepare")
    assert equal(*streams)
    assert equal(streams[0], batches(task_of(data)))


def test_epochs_seeds_and_streams_differ_in_order(data: ImageSet) -> None:
    task = task_of(data)
    given = [
        batches(task),
        batches(task, 1),
        batches(task_of(data, seed=6)),
        *(batches(task, 0, s) for s in ("prepare", "initial")),
    ]
    assert len({tuple(indices(one)) for one in given}) == 5
    assert all(sorted(indices(one)) == list(range(TRAIN)) for one in given)
    assert equal(given[1], batches(task, 1)) and equal(given[3], batches(task, 0, "prepare"))


@pytest.mark.parametrize("epoch_steps", [None, 5])
def test_batches_after_the_first_few_are_those_of_the_epoch(epoch_steps: int | None, data: ImageSet) -> None:
    task = task_of(data, epoch_steps=epoch_steps)
    whole = batches(task, 1)
    for skip in range(len(whole) + 1):
        assert equal(list(task.batches(1, CPU, skip=skip)), whole[skip:])


def test_endless_batches_go_on_epoch_after_epoch(data: ImageSet) -> None:
    task = task_of(data)
    stream = task.endless(CPU, "prepare")
    assert equal([next(stream) for _ in range(8)], [*batches(task, 0, "prepare"), *batches(task, 1, "prepare")])


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [
        (8, False, [8, 8, 8, 2]),
        (8, True, [8, 8, 8]),
        (13, False, [13, 13]),
        (13, True, [13, 13]),
        (25, False, [25, 1]),
        (26, True, [26]),
    ],
)
def test_the_last_part_of_a_batch_is_kept_or_left_as_the_recipe_says(
    batch_size: int, drop_last: bool, sizes: list[int], data: ImageSet
) -> None:
    task = task_of(data, batch_size=batch_size, drop_last=drop_last)
    assert task.steps_per_epoch == len(sizes) and task.batch_size == batch_size
    stream = batches(task)
    assert [len(batch.inputs) for batch in stream] == sizes
    assert len(set(indices(stream))) == sum(sizes)


def test_epochs_of_a_number_of_steps_go_round_the_data_without_end(data: ImageSet) -> None:
    task = task_of(data, epoch_steps=5, drop_last=False)
    assert task.steps_per_epoch == 5
    epochs = [batches(task, epoch) for epoch in range(13)]  # 520 samples: twenty rounds
    assert all([len(batch.inputs) for batch in epoch] == [8] * 5 for epoch in epochs)
    stream = indices([batch for epoch in epochs for batch in epoch])
    assert all(sorted(stream[i : i + TRAIN]) == list(range(TRAIN)) for i in range(0, 520, TRAIN))
    images = torch.cat([batch.inputs for epoch in epochs for batch in epoch]).flatten(1)
    drawn = [len(images[torch.tensor(stream) == i].unique(dim=0)) for i in range(TRAIN)]
    assert min(drawn) > 10  # of 50 crops with and without a flip, 20 draws
    again = task_of(data, epoch_steps=5, drop_last=False)
    assert all(equal(epochs[epoch], batches(again, epoch)) for epoch in (0, 7, 12))  # a resume


@pytest.mark.parametrize("stream", ["train", "prepare"])
def test_an_endless_stream_is_the_same_however_it_is_cut_into_epochs(stream: str, data: ImageSet) -> None:
    whole = batches(task_of(data, epoch_steps=8), 1, stream)
    cut = task_of(data, epoch_steps=2)
    assert equal(whole, [batch for epoch in range(4, 8) for batch in batches(cut, epoch, stream)])
    round_by_round = task_of(data, batch_size=13, epoch_steps=2)
    assert equal(batches(task_of(data, batch_size=13), 3, stream), batches(round_by_round, 3, stream))


def test_a_number_of_steps_is_the_same_for_a_share_of_the_set(path: Path) -> None:
    half = task_of(opened(path, fraction=0.4), epoch_steps=5)
    assert half.steps_per_epoch == 5 and half.num_samples == 10
    stream = indices([batch for epoch in range(2) for batch in batches(half, epoch)])
    assert all(sorted(stream[i : i + 10]) == list(range(10)) for i in range(0, 80, 10))


def test_without_augmentation_every_sample_comes_as_stored_with_its_label(data: ImageSet) -> None:
    task = task_of(data, padding=0, flip=0.0)
    assert isinstance(data.train, ArraySplit)
    images, labels = normalized(data, data.train.images), torch.from_numpy(data.train.labels)
    for batch in batches(task):
        assert batch.inputs.dtype == torch.float32 and batch.targets.dtype == batch.index.dtype == torch.int64
        assert torch.equal(batch.inputs, images[batch.index]) and torch.equal(batch.targets, labels[batch.index])
        assert batch.full_inputs is None
    assert task.train_targets is not None and torch.equal(task.train_targets, labels)
    assert (task.num_samples, task.image_size, task.classes) == (TRAIN, (8, 8), data.classes)


def test_crops_and_flips_are_the_epochs_draws(data: ImageSet) -> None:
    """The seed of the data order, the stream and the epoch, in this order: part of what a run is."""
    assert isinstance(data.train, ArraySplit)
    padded = augment.pad(torch.from_numpy(data.train.images), 2)
    for stream, number in (("train", 0), ("prepare", 1), ("initial", 2)):
        draws = augment.draw((5, number, 3), TRAIN, TRAIN, 2, 0.5, CPU)
        found = torch.cat([batch.inputs for batch in batches(task_of(data), 3, stream)])
        wanted = augment.normalize(augment.crop(padded, draws, slice(0, TRAIN), 8, 8), data.mean, data.std)
        assert torch.equal(found, wanted)
    assert indices(batches(task_of(data), 3))[:6] == [15, 14, 0, 23, 22, 10]


def test_channels_last_changes_the_layout_and_no_number(path: Path) -> None:
    for data in (opened(path), opened(path, resolution=4)):
        plain, last = batches(task_of(data, channels_last=False)), batches(task_of(data, channels_last=True))
        assert equal(plain, last)
        for shown in ("inputs", "teacher_inputs"):
            for one, other in zip(plain, last, strict=True):
                assert getattr(one, shown).is_contiguous()
                assert getattr(other, shown).is_contiguous(memory_format=torch.channels_last)


def test_a_share_of_the_set_takes_as_many_steps_and_shows_every_sample_kept(path: Path) -> None:
    whole, half = task_of(opened(path)), task_of(opened(path, fraction=0.4), drop_last=False)
    kept = half.num_samples
    assert kept < TRAIN / 2 and half.steps_per_epoch == whole.steps_per_epoch == 4
    stream = batches(half)
    assert [len(batch.inputs) for batch in stream] == [8, 8, 8, 2]
    counts = np.bincount(indices(stream), minlength=kept)
    assert len(counts) == kept and counts.min() >= TRAIN // kept and counts.max() <= -(-TRAIN // kept)
    assert half.train_targets is not None
    for batch in stream:
        assert torch.equal(batch.targets, half.train_targets[batch.index])
    assert task_of(opened(path, fraction=0.4), drop_last=True).steps_per_epoch == 3


def test_a_lower_resolution_is_for_the_student_alone_and_of_the_same_crop(path: Path) -> None:
    plain, reduced = batches(task_of(opened(path))), batches(task_of(opened(path, resolution=4)))
    for before, after in zip(plain, reduced, strict=True):
        assert after.full_inputs is not None and torch.equal(after.full_inputs, before.inputs)
        assert after.teacher_inputs is after.full_inputs and before.teacher_inputs is before.inputs
        assert after.inputs.shape == before.inputs.shape and not torch.equal(after.inputs, before.inputs)
        assert torch.equal(after.inputs, augment.reduce_resolution(before.inputs, 4))
        assert torch.equal(after.targets, before.targets) and torch.equal(after.index, before.index)


def test_noise_does_not_touch_what_is_trained_on(path: Path) -> None:
    assert equal(batches(task_of(opened(path))), batches(task_of(opened(path, noise=0.1))))


class Linear(Network):
    """One linear layer on all pixels."""

    info = NetworkInfo(channels=())
    num_classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(8 * 8 * 3, CLASSES)

    def forward(self, x: torch.Tensor, targets: Any = None) -> Outputs:
        return Outputs(self.layer(x.flatten(1)), ())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_with_label_smoothing_in_float32(smoothing: float, data: ImageSet) -> None:
    network, task = Linear(), task_of(data, label_smoothing=smoothing)
    batch = batches(task)[0]
    for precision, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision):
            outputs = task.outputs(network, batch)
        assert isinstance(outputs.logits, torch.Tensor) and outputs.logits.dtype == dtype
        (loss,) = outputs.losses.values()
        assert list(outputs.losses) == ["cross_entropy"] and loss.dtype == torch.float32 and loss.shape == ()
        log_p = outputs.logits.double().log_softmax(1)
        target = (1 - smoothing) * functional.one_hot(batch.targets, CLASSES) + smoothing / CLASSES
        assert loss.item() == pytest.approx(-(target * log_p).sum(1).mean().item(), rel=1e-6)
        assert outputs.logits.requires_grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_takes_shares_of_several_classes_as_targets(smoothing: float, data: ImageSet) -> None:
    network, task = Linear(), task_of(data, label_smoothing=smoothing)
    batch = batches(task)[0]
    one_hot = functional.one_hot(batch.targets, CLASSES).float()
    assert task.outputs(network, replace(batch, targets=one_hot)).losses["cross_entropy"].item() == pytest.approx(
        task.outputs(network, batch).losses["cross_entropy"].item(), rel=1e-6
    )
    mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = task.outputs(network, replace(batch, targets=mixed))
    assert isinstance(outputs.logits, torch.Tensor)
    target = (1 - smoothing) * mixed.double() + smoothing / CLASSES
    wanted = -(target * outputs.logits.double().log_softmax(1)).sum(1).mean().item()
    assert outputs.losses["cross_entropy"].item() == pytest.approx(wanted, rel=1e-6)


def test_flops_are_two_for_each_multiply_add_and_leave_the_network_as_it_was() -> None:
    images, labels = np.zeros((2, 32, 32, 3), dtype=np.uint8), np.zeros(2, dtype=np.int64)
    split, names = ArraySplit(images, labels), tuple(str(label) for label in range(100))
    half = (0.5, 0.5, 0.5)
    task = ClassificationTask(
        ImageSet("cifar", Path("cifar.npz"), names, split, split, half, half, "0" * 16, 2), recipe_of(batch_size=2), 0
    )
    network = networks.build("resnet8", 100)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert task.image_size == (32, 32)
    for training in (True, False):
        assert task.flops(network.train(training)) == 2 * 12_507_392
        assert network.training == training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_recipe_for_image_files_is_refused_for_arrays(data: ImageSet, path: Path) -> None:
    wrong = f"recipe imagenet_b1: image.kind resized_crop does not fit {path}, which needs padded_crop; choose a recipe"
    with pytest.raises(SpecError, match=wrong):
        ClassificationTask(data, load_recipe("imagenet_b1", {"batch_size": 8}), 0)


def test_a_batch_larger_than_the_set_or_the_share_of_it_is_refused(data: ImageSet, path: Path) -> None:
    assert task_of(data, batch_size=TRAIN).steps_per_epoch == 1
    with pytest.raises(SpecError, match=f"batch_size 27 is above the 26 training images of {path}; .*--set batch_size"):
        task_of(data, batch_size=27)
    with pytest.raises(SpecError, match="batch_size 26 is above the 10 training images"):
        task_of(opened(path, fraction=0.4), batch_size=TRAIN)


@pytest.mark.parametrize(("height", "width"), [(3, 5), (1, 1)])
def test_images_smaller_than_the_padding_are_cropped_all_the_same(height: int, width: int, path: Path) -> None:
    data = opened(path)
    assert isinstance(data.train, ArraySplit)
    cut = ArraySplit(np.ascontiguousarray(data.train.images[:, :height, :width]), data.train.labels)
    task = task_of(replace(data, train=cut, val=cut), padding=4)
    stream = batches(task)
    assert task.image_size == (height, width) and {batch.inputs.shape[1:] for batch in stream} == {(3, height, width)}
    zero = normalized(data, np.zeros((1, 1, 1, 3), dtype=np.uint8))
    assert any((image == zero[0]).all() for batch in stream for image in batch.inputs)  # padding alone


def test_the_evaluator_is_named_with_its_version(data: ImageSet) -> None:
    assert task_of(data).evaluator(reference=True) == f"torch {torch.__version__}"
