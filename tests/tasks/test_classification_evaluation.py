"""Evaluation of classification: top-1 and top-5, on what a network is shown, without a trace on training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdbench import networks
from kdbench.datasets import open_images
from kdbench.datasets.base import ArraySplit, ImageSet
from kdbench.methods.base import NetworkInfo, Outputs
from kdbench.networks.base import Network
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.tasks import augment
from kdbench.tasks.classification import EVALUATED, ClassificationTask

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


def normalized(data: ImageSet, images: np.ndarray[Any, Any]) -> torch.Tensor:
    """uint8 [N, H, W, 3] as a network is shown it."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return augment.normalize(pixels, data.mean, data.std)


class Shown(Network):
    """Keeps the images that it is shown and how, and answers them in turn with the rows of `logits`, [N, K]."""

    info = NetworkInfo(channels=())
    num_classes = CLASSES

    def __init__(self, logits: torch.Tensor | None = None) -> None:
        super().__init__()
        self.logits = logits
        self.images: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, targets: Any = None) -> Outputs:
        assert not self.training and not torch.is_autocast_enabled("cpu") and x.dtype == torch.float32
        start = sum(map(len, self.images))
        self.images.append(x)
        rows = torch.zeros(len(x), CLASSES) if self.logits is None else self.logits[start : start + len(x)]
        assert len(rows) == len(x)
        return Outputs(rows, ())


def task_on(labels: list[int], classes: int, **recipe: Any) -> ClassificationTask:
    """A task on images of these classes."""
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 2, 2, 3), dtype=np.uint8)
    split = ArraySplit(images, np.array(labels, dtype=np.int64))
    names = tuple(str(label) for label in range(classes))
    half = (0.5, 0.5, 0.5)
    data = ImageSet("some", Path("some.npz"), names, split, split, half, half, "0" * 16, len(labels))
    return ClassificationTask(data, recipe_of(**{"batch_size": 1} | recipe), 0)


def scored(logits: torch.Tensor, labels: list[int], **recipe: Any) -> dict[str, float]:
    """The metrics of a network that answers with `logits` on images of these classes."""
    task, network = task_on(labels, logits.shape[1], **recipe), Shown(logits)
    metrics = task.evaluate(network, CPU, True)
    assert isinstance(task.data.val, ArraySplit)
    assert torch.equal(torch.cat(network.images), normalized(task.data, task.data.val.images))  # each once, in order
    return metrics


def share(logits: torch.Tensor, labels: list[int], k: int) -> float:
    """Percent of the rows in which fewer than k other classes are not below the true one; a NaN is below nothing."""
    hits = 0
    for row, label in zip(logits.tolist(), labels, strict=True):
        above = sum(not value < row[label] for other, value in enumerate(row) if other != label)
        hits += above < k and not math.isnan(row[label])
    return 100 * hits / len(labels)


@pytest.mark.parametrize("count", [1, EVALUATED - 1, EVALUATED, 2 * EVALUATED + 3])
def test_top1_and_top5_are_those_of_a_direct_computation_on_the_whole_set(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(0, CLASSES, (count,), generator=generator).tolist()
    logits = torch.randint(0, 12, (count, CLASSES), generator=generator).float()  # many ties
    logits[torch.rand(logits.shape, generator=generator) < 0.02] = math.nan
    logits[torch.rand(logits.shape, generator=generator) < 0.02] = math.inf
    logits[torch.rand(logits.shape, generator=generator) < 0.02] = -math.inf
    metrics = scored(logits, labels)
    assert metrics == {"top1": pytest.approx(share(logits, labels, 1)), "top5": pytest.approx(share(logits, labels, 5))}


def test_without_ties_top1_and_top5_are_argmax_and_topk() -> None:
    logits = torch.randn(300, CLASSES, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(300) % CLASSES
    hits = logits.topk(5).indices == labels[:, None]
    metrics = scored(logits, labels.tolist())
    assert metrics["top1"] == pytest.approx(100 * hits[:, 0].double().mean().item())
    assert metrics["top5"] == pytest.approx(100 * hits.any(1).double().mean().item())


@pytest.mark.parametrize(
    ("row", "top1", "top5"),
    [
        ([3, 2, 2, 2, 2, 2], 100, 100),
        ([2, 3, 3, 3, 3, 1], 0, 100),  # fifth
        ([2, 3, 3, 3, 3, 3], 0, 0),  # sixth
        ([2, 2, 1, 1, 1, 1], 0, 100),  # as good as another is not best
        ([2, 2, 2, 2, 2, 2], 0, 0),  # a network that says nothing
        ([math.nan] * 6, 0, 0),
        ([math.nan, 1, 1, 1, 1, 1], 0, 0),
        ([3, 1, 1, math.nan, 1, 1], 0, 100),
        ([math.inf, 1, 1, 1, 1, 1], 100, 100),
        ([math.inf] * 6, 0, 0),
    ],
)
def test_ties_and_numbers_that_are_none_count_against_the_network(row: list[float], top1: int, top5: int) -> None:
    assert scored(torch.tensor([row]).float(), [0]) == {"top1": top1, "top5": top5}


@pytest.mark.parametrize(("classes", "names"), [(2, {"top1"}), (5, {"top1"}), (6, {"top1", "top5"})])
def test_there_is_a_top5_where_it_can_be_wrong(classes: int, names: set[str]) -> None:
    assert set(scored(torch.eye(classes), list(range(classes)))) == names


@pytest.mark.parametrize("count", [1, EVALUATED, 2 * EVALUATED + 3])
def test_agreement_is_accuracy_with_the_classes_of_the_teacher_for_labels(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(0, CLASSES, (count,), generator=generator).tolist()
    teacher = torch.randn(count, CLASSES, generator=generator)
    student = teacher + 2 * torch.randn(count, CLASSES, generator=generator).round()  # ties with nobody, often near
    task, shown = task_on(labels, CLASSES), [Shown(teacher), Shown(student)]
    measured = task.measure(shown[0], CPU, full=True)
    answers = measured.predictions
    assert measured.metrics == {
        "top1": pytest.approx(share(teacher, labels, 1)),
        "top5": pytest.approx(share(teacher, labels, 5)),
    }
    assert answers is not None
    taught = [max(range(CLASSES), key=row.__getitem__) for row in teacher.tolist()]
    assert (answers.tolist(), answers.dtype) == (taught, torch.int64)
    own = task.measure(shown[1], CPU, teacher=answers)
    assert own.metrics == task.evaluate(Shown(student), CPU, reference=True)
    assert own.agreement == {
        "agreement": pytest.approx(share(student, taught, 1)),
        "agreement5": pytest.approx(share(student, taught, 5)),
    }
    assert [sum(map(len, network.images)) for network in shown] == [count, count]  # asked once for both


def test_a_teacher_agrees_with_itself_and_nobody_with_no_teacher() -> None:
    logits = torch.randn(20, CLASSES, generator=torch.Generator().manual_seed(0))
    task = task_on([0] * 20, CLASSES)
    answers = task.measure(Shown(logits), CPU, full=True).predictions
    assert task.measure(Shown(logits), CPU, teacher=answers).agreement == {"agreement": 100, "agreement5": 100}
    assert task.measure(Shown(logits), CPU).agreement == {}


def test_there_is_an_agreement5_where_there_is_a_top5() -> None:
    task = task_on([0, 1, 2, 3, 4], 5)
    answers = task.measure(Shown(torch.eye(5)), CPU, full=True).predictions
    assert task.measure(Shown(torch.eye(5).roll(1, 0)), CPU, teacher=answers).agreement == {"agreement": 0}


def test_classes_have_the_accuracy_of_their_images_and_what_they_are_taken_for() -> None:
    likely = torch.tensor([0, 0, 1, 1, 1, 2, 0, 3])
    labels = [0, 0, 0, 1, 1, 2, 2, 2]
    logits = torch.nn.functional.one_hot(likely, CLASSES).float()
    found = task_on(labels, CLASSES).measure(Shown(logits), CPU)
    scores = found.by_class.scores
    assert scores[:3] == (pytest.approx(200 / 3), 100.0, pytest.approx(100 / 3)) and set(scores[3:]) == {None}
    assert found.by_class.counts == (3, 2, 3, *[0] * (CLASSES - 3))
    assert sum(s * n for s, n in zip(scores, found.by_class.counts, strict=True) if s is not None) / 8 == (
        pytest.approx(found.metrics["top1"])
    )
    assert found.by_class.confusions == ((0, 1, 1), (2, 0, 1), (2, 3, 1))


def test_the_most_frequent_confusions_come_first_and_ties_with_the_label_are_none() -> None:
    logits = torch.eye(6)[[1, 1, 0, 2, 2, 2]]
    logits[2, :2] = 1  # the label is tied with another class: wrong, and taken for nothing else
    found = task_on([0, 0, 0, 1, 1, 1], 6).measure(Shown(logits), CPU)
    assert found.by_class.confusions == ((1, 2, 3), (0, 1, 2))
    assert found.by_class.scores[:2] == (0.0, 0.0)


def test_logits_that_bfloat16_cannot_tell_apart_are_told_apart() -> None:
    logits = torch.tensor([[8.0, 8.001, 0.0]])
    assert scored(logits, [1], precision="bfloat16") == {"top1": 100}
    assert scored(logits, [0], precision="bfloat16") == {"top1": 0}


def test_evaluation_is_in_float32_whatever_the_recipe(data: ImageSet) -> None:
    torch.manual_seed(0)
    network = networks.build("resnet8", CLASSES)
    kept: list[torch.Tensor] = []
    network.register_forward_hook(lambda _, __, outputs: kept.append(outputs.logits))
    for precision in ("float32", "bfloat16"):
        task_of(data, precision=precision).evaluate(network, CPU, reference=True)
    assert kept[0].dtype == kept[1].dtype == torch.float32 and torch.equal(*kept)


def test_evaluation_shows_a_teacher_the_full_resolution(path: Path) -> None:
    task = task_of(opened(path, resolution=4))
    assert isinstance(task.data.val, ArraySplit)
    images = normalized(task.data, task.data.val.images)
    for full, wanted in ((True, images), (False, augment.reduce_resolution(images, 4))):
        network = Shown()
        task.evaluate(network, CPU, reference=True, full=full)
        assert torch.equal(torch.cat(network.images), wanted)
    teacher, student = Shown(), Shown()
    task.measure(student, CPU, teacher=task.measure(teacher, CPU, full=True).predictions)
    assert torch.equal(torch.cat(teacher.images), images)
    assert torch.equal(torch.cat(student.images), augment.reduce_resolution(images, 4))


@pytest.mark.parametrize("channels_last", [False, True])
def test_validation_images_are_laid_out_as_the_recipe_says(channels_last: bool, path: Path) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for resolution in ({}, {"resolution": 4}):
        network = Shown()
        task_of(opened(path, **resolution), channels_last=channels_last).evaluate(network, CPU, reference=True)
        assert all(images.is_contiguous(memory_format=layout) for images in network.images)


def test_noise_is_what_a_network_is_shown_and_of_the_deviation_asked_for(path: Path) -> None:
    clean, noisy = opened(path), opened(path, noise=0.1)
    seen = []
    for data in (clean, noisy):
        network = Shown()
        task_of(data).evaluate(network, CPU, reference=True)
        assert isinstance(data.val, ArraySplit)
        seen.append(torch.cat(network.images))
        assert torch.equal(seen[-1], normalized(clean, data.val.images))
    assert 0.05 < ((seen[0] - seen[1]) * torch.tensor(clean.std).view(3, 1, 1)).std() < 0.15


def trained(data: ImageSet, evaluated: bool) -> dict[str, torch.Tensor]:
    """A student's state after three steps, evaluated after each or never."""
    torch.manual_seed(0)
    task, network = task_of(data), networks.build("resnet8", CLASSES)
    for batch in list(task.batches(0, CPU))[:3]:
        network.train()
        loss = task.outputs(network, batch).losses["cross_entropy"]
        weights = list(network.parameters())
        with torch.no_grad():
            for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight -= 0.1 * slope
        if evaluated:
            task.evaluate(network, CPU, reference=False)
    return network.state_dict()


def test_training_goes_on_after_an_evaluation_as_if_there_had_been_none(data: ImageSet) -> None:
    plain, evaluated = trained(data, False), trained(data, True)
    assert all(torch.equal(plain[name], evaluated[name]) for name in plain)
