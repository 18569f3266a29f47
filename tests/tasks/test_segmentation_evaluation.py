"""Evaluation of segmentation: every image once, whole, and the numbers of Cityscapes' own evaluator."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from kdbench.datasets.base import IGNORE_INDEX, MaskSet
from kdbench.tasks import segmentation
from kdbench.tasks.segmentation import scores
from tests.helpers.masks import CLASSES, CPU, Heads, Reader, picture, shade, task_of, write

SIZES = [(24, 40), (16, 30), (24, 40), (33, 24), (16, 30), (24, 40), (24, 40)]  # heights and widths
Ids = np.ndarray[Any, Any]
GOLDEN = Path(__file__).parents[1] / "golden" / "cityscapes_evaluator.npz"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MaskSet:
    """Seven pictures to validate on, of three shapes; what the masks hide, the images show."""
    path = tmp_path_factory.mktemp("masks") / "blocks"
    pictures = [picture(*size, seed=i) for i, size in enumerate(SIZES)]
    return write(path, [picture(16, 24, 9), picture(16, 24, 10)], pictures)


@pytest.mark.parametrize(
    ("workers", "pixels"), [(0, 1), (0, 24 * 40), (0, 2 * 24 * 40), (2, 2 * 24 * 40), (0, 3 * 24 * 40), (0, 2**20)]
)
def test_every_image_is_shown_once_whole_and_with_its_own_mask(
    workers: int, pixels: int, data: MaskSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are of a size and however many fit a batch: none is padded, left out or counted twice."""
    monkeypatch.setattr(segmentation, "EVALUATED", pixels)
    network = Reader(data)
    found = list(task_of(data, workers=workers).predictions(network, CPU))
    assert sorted(i for i, _, _ in found) == list(range(len(SIZES)))
    for i, truth, predicted in found:
        image, mask = data.val.load(i)
        assert torch.equal(truth, torch.from_numpy(mask.astype(np.int64)))
        assert torch.equal(predicted, torch.from_numpy(image[:, :, 0] // 10).long())
    assert all(n == 1 or n * height * width <= pixels for n, _, height, width in network.seen)
    shapes = sorted((height, width) for n, _, height, width in network.seen for _ in range(n))
    assert shapes == sorted(SIZES)
    if pixels == 2**20:
        assert len(network.seen) == len(set(SIZES))  # one batch a size


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_every_pixel_that_counts_is_counted_once(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "EVALUATED", 3 * 16 * 24)
    data = write(tmp_path / "set", [picture(16, 24)] * 2, [picture(16, 24, seed) for seed in range(count)])
    counted = []

    def kept(confusion: list[list[int]], classes: tuple[str, ...]) -> dict[str, float]:
        counted.append(np.array(confusion))
        return scores(confusion, classes)

    monkeypatch.setattr(segmentation, "scores", kept)
    metrics = task_of(data).evaluate(Reader(data), CPU, reference=True)
    masks = np.stack([data.val.load(i)[1] for i in range(count)])
    expected = np.bincount(masks[masks != IGNORE_INDEX], minlength=len(CLASSES))
    assert counted[0].tolist() == np.diag(expected).tolist()
    assert metrics["miou"] == metrics["pixel_accuracy"] == 100.0


def test_some_images_alone_can_be_predicted(data: MaskSet) -> None:
    found = list(task_of(data).predictions(Reader(data), CPU, chosen=[5, 1]))
    assert sorted(i for i, _, _ in found) == [1, 5]


def test_logits_are_brought_to_the_masks_size_before_the_largest_is_taken(data: MaskSet) -> None:
    network = Heads().train()
    for i, truth, predicted in task_of(data).predictions(network, CPU):
        image = torch.tensor(data.val.load(i)[0]).permute(2, 0, 1)[None].float()
        mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
        logits = network((image / 255 - mean) / std).logits
        assert isinstance(logits, torch.Tensor)
        up = functional.interpolate(logits, truth.shape, mode="bilinear", align_corners=True)
        assert (predicted == up.argmax(1)[0]).float().mean() > 0.999
        assert predicted.dtype == torch.int64
    assert not network.training


def test_evaluation_does_not_depend_on_the_recipes_precision(data: MaskSet) -> None:
    plain, half = (
        task_of(data, precision=name).evaluate(Heads(), CPU, reference=True) for name in ("float32", "bfloat16")
    )
    assert plain == half and 0 < plain["miou"] < 60


def test_metrics_are_in_percent_by_name(data: MaskSet) -> None:
    task = task_of(data)
    metrics = task.evaluate(Reader(data), CPU, reference=True)
    assert metrics == dict.fromkeys(["miou", "pixel_accuracy", *(f"iou/{name}" for name in CLASSES)], 100.0)
    assert task.headline == "miou" and task.evaluator(reference=True).startswith("torchmetrics 1.")


def test_scores_of_a_small_count_by_hand() -> None:
    """Rows are the truth: of eight pixels of a, six were found, one called b and one d; c occurs nowhere."""
    counts = [[6, 1, 0, 1], [2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    ious = {"iou/a": 100 * 6 / 10, "iou/b": 100 * 4 / 7, "iou/d": 0.0}
    expected = {"miou": sum(ious.values()) / 3, "pixel_accuracy": 100 * 10 / 14} | ious
    assert scores(counts, ("a", "b", "c", "d")) == pytest.approx(expected, rel=1e-12)
    assert list(scores(counts, ("a", "b", "c", "d"))) == list(expected)


def test_classes_have_their_iou_and_the_pixels_that_are_taken_for_others(data: MaskSet) -> None:
    found = task_of(data).measure(Heads(), CPU)
    expected = tuple(found.metrics.get(f"iou/{name}") for name in CLASSES)
    assert found.by_class.scores == expected and None not in expected
    masks = np.concatenate([data.val.load(i)[1].ravel() for i in range(len(data.val))])
    assert found.by_class.counts == tuple(np.bincount(masks[masks != IGNORE_INDEX], minlength=len(CLASSES)).tolist())
    times = [count for _, _, count in found.by_class.confusions]
    assert times == sorted(times, reverse=True) and len(times) > 1
    missed = (1 - found.metrics["pixel_accuracy"] / 100) * sum(found.by_class.counts)
    assert sum(times) == pytest.approx(missed)
    assert task_of(data).measure(Reader(data), CPU).by_class.confusions == ()


def test_where_no_pixel_counts_there_is_no_metric(tmp_path: Path) -> None:
    assert scores([[0, 0], [0, 0]], ("a", "b")) == {}
    hidden = picture(16, 24, void=1.0)
    data = write(tmp_path / "set", [picture(16, 24)] * 2, [hidden])
    assert (data.val.load(0)[1] == IGNORE_INDEX).all()
    assert task_of(data).evaluate(Reader(data), CPU, reference=True) == {}
    assert set(task_of(data).measure(Reader(data), CPU).by_class.scores) == {None}


def evaluated(path: Path, truth: Ids, predicted: Ids, record: Any) -> dict[str, float]:
    """Our metrics of label ids: the truth goes into masks, the prediction into what a network reads off the images."""
    train_ids, names = record["train_ids"], record["classes"].tolist()
    pairs = [(shade(train_ids[found]), train_ids[true]) for true, found in zip(truth, predicted, strict=True)]
    data = write(path / "set", pairs[:2], pairs, names)
    return task_of(data).evaluate(Reader(data), CPU, reference=True)


def test_the_metrics_are_those_that_cityscapes_evaluator_gave_for_the_same_predictions(tmp_path: Path) -> None:
    with np.load(GOLDEN) as record:
        metrics = evaluated(tmp_path, record["truth"], record["predicted"], record)
        names, ious, miou = record["classes"].tolist(), record["iou"], record["miou"].item()
        counts = record["train_ids"][record["truth"]] != IGNORE_INDEX
        right = (record["truth"] == record["predicted"])[counts].mean()
    expected = {f"iou/{name}": 100 * iou for name, iou in zip(names, ious, strict=True) if not np.isnan(iou)}
    assert metrics.pop("pixel_accuracy") == pytest.approx(100 * right, rel=1e-12)  # theirs gives none
    assert metrics == pytest.approx({"miou": 100 * miou} | expected, rel=1e-12)
    assert len(expected) == 17 and {"iou/train", "iou/wall"}.isdisjoint(metrics) and metrics["iou/bus"] == 0
    assert 40 < metrics["miou"] < 60 < 100 * right < 75


def cityscapes_evaluator() -> Any:
    """The module, if it is installed; it warns of its own when imported."""
    name = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"cityscapesscripts cannot be imported: {error}")


@pytest.mark.parametrize("seed", range(3))
def test_the_metrics_are_those_of_cityscapes_evaluator_where_it_is_installed(seed: int, tmp_path: Path) -> None:
    evaluator = cityscapes_evaluator()
    with np.load(GOLDEN) as record:
        known = {name: record[name] for name in ("train_ids", "classes")}
    draw = np.random.default_rng(seed)
    evaluable = np.flatnonzero(known["train_ids"] != IGNORE_INDEX)
    truth = draw.choice(np.delete(np.arange(34), 20 + seed), (4, 16, 24)).astype(np.uint8)
    noise = draw.choice(np.delete(evaluable, 5 + seed), truth.shape)
    predicted = np.where((draw.random(truth.shape) < 0.5) | ~np.isin(truth, evaluable), noise, truth).astype(np.uint8)
    metrics = evaluated(tmp_path, truth, predicted, known)
    files: list[tuple[str, str]] = []
    for i, (true, found) in enumerate(zip(truth, predicted, strict=True)):
        stem = f"{tmp_path}/aachen_{i:06d}_000000"
        files.append((f"{stem}_pred.png", f"{stem}_gtFine_labelIds.png"))
        Image.fromarray(found).save(files[-1][0])
        Image.fromarray(true).save(files[-1][1])
    settings = evaluator.args
    settings.quiet, settings.JSONOutput, settings.evalInstLevelScore = True, False, False
    theirs = evaluator.evaluateImgLists([one for one, _ in files], [one for _, one in files], settings)
    expected = {name: theirs["classScores"][name] for name in known["classes"].tolist()}
    expected = {f"iou/{name}": 100 * value for name, value in expected.items() if not np.isnan(value)}
    del metrics["pixel_accuracy"]
    assert metrics == pytest.approx({"miou": 100 * theirs["averageScoreClasses"]} | expected, rel=1e-12)
