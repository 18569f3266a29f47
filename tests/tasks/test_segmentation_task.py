"""Batches and losses of segmentation; evaluation and the crops themselves have tests of their own."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdbench.datasets import DataError
from kdbench.datasets.base import IGNORE_INDEX, MaskSet
from kdbench.errors import SpecError
from kdbench.methods.base import Batch
from kdbench.tasks.segmentation import SegmentationTask
from tests.helpers.masks import CLASSES, CPU, Heads, picture, recipe_of, task_of, write
from tests.helpers.tensors import equal

SIZES = [(20, 40), (16, 24), (32, 24), (40, 60), (18, 30), (24, 24), (30, 50)]  # heights and widths
TRAIN = len(SIZES)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MaskSet:
    """Seven pictures to train on, of seven shapes, and two to validate on."""
    path = tmp_path_factory.mktemp("masks") / "blocks"
    return write(path, [picture(*size) for size in SIZES], [picture(24, 40, seed) for seed in (1, 2)])


def batches(task: SegmentationTask, epoch: int = 0, stream: str = "train") -> list[Batch]:
    return list(task.batches(epoch, CPU, stream))


def indices(stream: list[Batch]) -> list[int]:
    return [i for batch in stream for i in batch.index.tolist()]


def shown(data: MaskSet, inputs: torch.Tensor) -> torch.Tensor:
    """Normalised images [N, 3, H, W] as levels of 0 to 255 again."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return (inputs * std + mean) * 255


def test_batches_after_the_first_few_are_those_of_the_epoch(data: MaskSet) -> None:
    task = task_of(data)
    for skip in (1, 2, 3):
        assert equal(list(task.batches(0, CPU, skip=skip)), batches(task)[skip:])


def test_batches_are_the_same_with_and_without_workers(data: MaskSet) -> None:
    alone = batches(task_of(data))
    assert [len(batch.inputs) for batch in alone] == [2, 2, 2]
    assert equal(alone, batches(task_of(data, workers=2)))


def test_batches_do_not_depend_on_what_was_drawn_before_and_draw_nothing_from_it(data: MaskSet) -> None:
    streams = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        streams.append(batches(task_of(data)))
        assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    assert equal(*streams)


def test_epochs_seeds_and_streams_differ_in_order_and_augmentation(data: MaskSet) -> None:
    task = task_of(data, batch_size=7)
    given = [batches(task), batches(task, 1), batches(task_of(data, seed=6, batch_size=7)), batches(task, 0, "prepare")]
    assert len({tuple(indices(one)) for one in given}) == 4
    assert all(sorted(indices(one)) == list(range(TRAIN)) for one in given)
    pictures = [one[0].inputs[one[0].index.argsort()] for one in given]
    for i, one in enumerate(pictures):
        for other in pictures[i + 1 :]:
            assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert equal(given[1], batches(task, 1))


def test_what_a_batch_holds(data: MaskSet) -> None:
    """Normalized images, int64 masks with IGNORE_INDEX in padding and ignored pixels, positions."""
    padded = 0
    for batch in chain(*(batches(task_of(data), epoch) for epoch in range(8))):
        assert batch.inputs.shape == (2, 3, 16, 24) and batch.inputs.dtype == torch.float32
        assert batch.targets.shape == (2, 16, 24) and batch.targets.dtype == batch.index.dtype == torch.int64
        assert set(batch.targets.unique().tolist()) <= {*range(len(CLASSES)), IGNORE_INDEX}
        outside = (batch.inputs == 0).all(dim=1)
        padded += int(outside.sum())
        assert (batch.targets[outside] == IGNORE_INDEX).all()
        levels = shown(data, batch.inputs)
        assert all(((levels[:, i] - value).abs()[~outside] < 1e-3).all() for i, value in ((1, 100), (2, 200)))
        # Inside a block, where the image shows one class alone, the mask has the same class or is ignored.
        red = levels[:, 0] / 10
        whole = ((red - red.round()).abs() < 1e-4) & ~outside & (batch.targets != IGNORE_INDEX)
        same = red.round()[whole].long() == batch.targets[whole]
        assert same.float().mean() > 0.9
    assert padded > 500


def test_without_augmentation_every_sample_comes_as_stored(data: MaskSet) -> None:
    one_size = replace(data, train=data.val)
    task = task_of(one_size, height=24, width=40, flip=0.0, scale=(1.0, 1.0))
    for batch in batches(task):
        for inputs, targets, i in zip(batch.inputs, batch.targets, batch.index.tolist(), strict=True):
            image, mask = data.val.load(i)
            assert torch.equal(targets, torch.from_numpy(mask.astype(np.int64)))
            torch.testing.assert_close(shown(data, inputs), torch.tensor(image).permute(2, 0, 1).float())


def test_channels_last_changes_the_layout_and_no_number(data: MaskSet) -> None:
    plain, last = batches(task_of(data, channels_last=False)), batches(task_of(data, channels_last=True))
    assert equal(plain, last)
    assert all(batch.inputs.is_contiguous() for batch in plain)
    assert all(batch.inputs.is_contiguous(memory_format=torch.channels_last) for batch in last)


def test_epochs_of_a_number_of_steps_go_round_the_data_without_end(data: MaskSet) -> None:
    task = task_of(data, epoch_steps=5)
    assert task.steps_per_epoch == 5
    epochs = [batches(task, epoch) for epoch in range(7)]  # 70 samples: ten rounds
    assert all([len(batch.inputs) for batch in epoch] == [2] * 5 for epoch in epochs)
    stream = indices(list(chain(*epochs)))
    assert all(sorted(stream[i : i + TRAIN]) == list(range(TRAIN)) for i in range(0, 70, TRAIN))
    images = torch.cat([batch.inputs for epoch in epochs for batch in epoch])
    for i in range(TRAIN):
        crops = images[torch.tensor(stream) == i].flatten(1)
        assert len(crops) == 10 and len(crops.unique(dim=0)) > 7  # each round draws anew
    assert all(equal(epochs[epoch], batches(task_of(data, epoch_steps=5), epoch)) for epoch in (0, 3, 6))  # a resume


def test_an_endless_stream_is_the_same_however_it_is_cut_into_epochs(data: MaskSet) -> None:
    whole = batches(task_of(data, epoch_steps=7))
    cut = task_of(data, epoch_steps=1)
    assert equal(whole, list(chain(*(batches(cut, epoch) for epoch in range(7)))))
    once = task_of(data, batch_size=7)
    assert once.steps_per_epoch == 1
    assert equal(batches(once, 3), batches(task_of(data, batch_size=7, epoch_steps=1), 3))


def test_a_methods_earlier_phase_goes_on_epoch_after_epoch(data: MaskSet) -> None:
    task = task_of(data, epoch_steps=2)
    stream = task.endless(CPU, "prepare")
    assert equal([next(stream) for _ in range(4)], [*batches(task, 0, "prepare"), *batches(task, 1, "prepare")])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_one_error_that_names_it(workers: int, tmp_path: Path) -> None:
    data = write(tmp_path / "set", [picture(16, 24, seed) for seed in range(4)], [picture(16, 24)])
    broken = tmp_path / "set/images/train/002.png"
    task = task_of(data, workers=workers)
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match="images/train/002.png") as caught:
        batches(task)
    assert "Traceback" not in str(caught.value)


def expected_loss(logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> float:
    """Mean cross-entropy of the pixels that count, one by one, in float64."""
    up = functional.interpolate(logits.double(), targets.shape[-2:], mode="bilinear", align_corners=True)
    rows, labels = up.permute(0, 2, 3, 1)[targets != IGNORE_INDEX], targets[targets != IGNORE_INDEX]
    wanted = (1 - smoothing) * functional.one_hot(labels, rows.shape[1]) + smoothing / rows.shape[1]
    return -(wanted * rows.log_softmax(1)).sum(1).mean().item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("half", [False, True])
def test_the_losses_are_cross_entropies_at_the_masks_size_in_float32(
    half: bool, smoothing: float, data: MaskSet
) -> None:
    task = task_of(data, label_smoothing=smoothing, aux_weight=0.3)
    batch = batches(task)[0]
    assert (batch.targets == IGNORE_INDEX).any()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        outputs = task.outputs(Heads(), batch)
    assert list(outputs.losses) == ["cross_entropy", "aux_cross_entropy"]
    assert isinstance(outputs.logits, torch.Tensor) and isinstance(outputs.extra["aux_logits"], torch.Tensor)
    assert outputs.logits.dtype == (torch.bfloat16 if half else torch.float32)
    assert all(loss.dtype == torch.float32 and loss.shape == () for loss in outputs.losses.values())
    own, auxiliary = (loss.item() for loss in outputs.losses.values())
    assert own == pytest.approx(expected_loss(outputs.logits, batch.targets, smoothing), rel=1e-5)
    wanted = 0.3 * expected_loss(outputs.extra["aux_logits"], batch.targets, smoothing)
    assert auxiliary == pytest.approx(wanted, rel=1e-5)


def test_without_an_auxiliary_head_or_its_weight_there_is_one_loss(data: MaskSet) -> None:
    batch = batches(task_of(data))[0]
    assert list(task_of(data).outputs(Heads(auxiliary=False), batch).losses) == ["cross_entropy"]
    assert list(task_of(data, aux_weight=0.0).outputs(Heads(), batch).losses) == ["cross_entropy"]


def test_a_batch_of_void_alone_has_no_loss_and_moves_nothing(data: MaskSet) -> None:
    batch = batches(task_of(data))[0]
    network = Heads()
    losses = task_of(data).outputs(network, replace(batch, targets=torch.full_like(batch.targets, IGNORE_INDEX))).losses
    assert [loss.item() for loss in losses.values()] == [0.0, 0.0]
    sum(losses.values(), torch.zeros(())).backward()
    assert all(value.grad is not None and not value.grad.any() for value in network.parameters())


def test_flops_are_counted_at_the_crop_and_leave_the_network_as_it_was(data: MaskSet) -> None:
    task, network = task_of(data, height=16, width=24), Heads(auxiliary=False)
    assert task.image_size == (16, 24)
    for training in (True, False):
        assert task.flops(network.train(training)) == 2 * (16 // 4) * (24 // 4) * 3 * 4 * 4 * len(CLASSES)
        assert network.training == training


def test_a_batch_larger_than_the_set_is_refused(data: MaskSet) -> None:
    assert task_of(data, batch_size=TRAIN).steps_per_epoch == 1
    with pytest.raises(SpecError, match=f"batch_size 8 is above the 7 training images of {data.path}; .*--set batch"):
        task_of(data, batch_size=8)


@pytest.mark.parametrize(
    ("height", "width", "file", "mend"),
    [
        (17, 24, "001.png", "--set image.height=16 --set image.width=24"),
        (16, 25, "001.png", "--set image.height=16 --set image.width=24"),
        (99, 20, "000.png", "--set image.height=16 --set image.width=20"),
    ],
)
def test_a_crop_larger_than_an_image_is_refused_with_file_sizes_and_fields(
    height: int, width: int, file: str, mend: str, data: MaskSet
) -> None:
    """Padding is for what a scale below 1 leaves, so the line is the image as it is stored."""
    assert task_of(data, height=16, width=24).image_size == (16, 24)
    with pytest.raises(SpecError) as caught:
        task_of(data, height=height, width=width)
    message = str(caught.value)
    image = data.path / "images/train" / file
    assert f"image.height {height} and image.width {width} is larger than {image}, which is" in message
    assert message.endswith(mend)


def test_a_data_set_of_masks_is_opened_verified_described_and_built(data: MaskSet) -> None:
    opened = SegmentationTask.open("cityscapes", data.path.parent, data.path)
    SegmentationTask.verify(opened)
    SegmentationTask.verify(opened, full=True)
    described = SegmentationTask.describe(opened)
    assert (described.name, described.train_images, described.val_images, described.classes) == ("blocks", TRAIN, 2, 4)
    assert described.fingerprint == data.fingerprint
    task = SegmentationTask(opened, recipe_of(), 5)
    assert (task.num_samples, task.classes) == (TRAIN, CLASSES)
    assert equal(list(task.batches(0, CPU)), batches(task_of(data)))


def test_the_remedy_for_slow_loading_names_the_folder_of_decoded_images(
    data: MaskSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(data)
    assert "KDBENCH_DECODED" not in task.faster_loading()  # they are kept in memory
    monkeypatch.setattr("kdbench.tasks.segmentation.CACHE_BYTES", 0)
    assert "KDBENCH_DECODED=FOLDER keeps images there once they are decoded (0.0 GB)" in task.faster_loading()
    monkeypatch.setenv("KDBENCH_DECODED", "/somewhere")
    assert "KDBENCH_DECODED" not in task.faster_loading()
