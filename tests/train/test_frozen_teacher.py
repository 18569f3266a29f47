"""A given teacher: no better than guessing is reported loudly, outputs that are not finite stop its students."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import networks
from kdbench.methods.base import Batch
from kdbench.records import checkpoint as checkpoints
from kdbench.records.row import Row
from kdbench.spec.recipe import load_recipe
from kdbench.spec.run import Data
from kdbench.tasks.classification import ClassificationTask
from kdbench.tasks.detection import DetectionTask
from kdbench.tasks.precision import autocast
from kdbench.tasks.segmentation import SegmentationTask
from kdbench.train.events import Event
from kdbench.train.job import execute
from kdbench.train.step import teacher_forward
from tests.conftest import SHORT
from tests.helpers.pictures import Pictures, short

Events = list[Event]


def taught_by(state: dict[str, Any], pictures: Pictures, folder: Path) -> tuple[list[Row], Events]:
    """The rows of a run with a teacher of these weights and of one without, and what was reported."""
    file, events = folder / "given.pt", Events()
    given = {"teacher_file": checkpoints.write(file, {"state": state})}
    runs = [pictures.run("kd", recipe=short(max_steps=1), **given), pictures.run(recipe=short(max_steps=1))]
    return execute(pictures.job(folder, *runs, teacher_files={"resnet14": file}), events.append), events


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def state() -> dict[str, Any]:
    torch.manual_seed(0)
    return dict(networks.build("resnet14", 10).state_dict())


def test_a_teacher_that_answers_one_class_is_reported_as_no_better_than_guessing(
    state: dict[str, Any], pictures: Pictures, tmp_path: Path
) -> None:
    rows, events = taught_by(state | {"fc.weight": torch.zeros(10, 64)}, pictures, tmp_path)
    assert [row.status for row in rows] == ["done", "done"]
    (warning,) = [event.text for event in events if event.event == "warning"]
    assert warning.startswith("the teacher resnet14 scores ") and "no better than guessing (up to 29.0)" in warning


def test_a_teacher_whose_outputs_overflow_fails_its_students_alone_and_is_blamed(
    state: dict[str, Any], pictures: Pictures, tmp_path: Path
) -> None:
    huge = {name: state[name] * 1e38 for name in ("conv1.weight", "fc.weight")}
    rows, _ = taught_by(state | huge | {"bn1.weight": state["bn1.weight"] * 1e38}, pictures, tmp_path)
    found = {row.run.method: row for row in rows}
    assert found["none"].status == "done" and found["kd"].status == "failed"
    assert "teacher resnet14: its outputs are NaN or infinite" in found["kd"].reason


def data(classes: int, images: int) -> Data:
    return Data(name="some", fingerprint="0" * 16, train_images=9, val_images=images, classes=classes)


def test_chance_is_above_a_random_answer_and_below_a_network_that_learned() -> None:
    assert ClassificationTask.chance(data(100, 10_000)) == pytest.approx(1 + 2 * 0.0995, abs=0.01)
    assert ClassificationTask.chance(data(2, 100)) == pytest.approx(60)
    assert ClassificationTask.chance(data(1, 100)) == 0
    assert SegmentationTask.chance(data(19, 500)) == pytest.approx(100 / 19)
    assert DetectionTask.chance(data(80, 5000)) == 0.1
    assert ClassificationTask.guesses("resnet56", 72.3, data(100, 10_000)) == ""
    assert "training may be too short" in ClassificationTask.guesses("resnet56", 1.0, data(100, 10_000))
    assert "scores 1.0 top1" in ClassificationTask.guesses("resnet56", 1.0, data(100, 10_000))


def test_a_teacher_is_measured_on_images_of_the_size_that_it_was_trained_at(
    make_run: Any, make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    measure = DetectionTask.measure

    def counted(self: DetectionTask, *arguments: Any, full: bool = False, **options: Any) -> Any:
        if full:
            measured.append(self.recipe.image.shorter)  # type: ignore[union-attr]
        return measure(self, *arguments, full=full, **options)

    monkeypatch.setattr(DetectionTask, "measure", counted)
    quick = {**SHORT, "epochs": 1, "max_steps": 1}
    teacher = make_run("teacher", recipe=load_recipe("coco_mini", quick))
    smaller = make_run("mimic", recipe=load_recipe("coco_mini", quick | {"image": {"shorter": 64, "longer": 64}}))
    same = make_run("mimic", recipe=load_recipe("coco_mini", quick))
    runs = [run.model_copy(update={"teacher": teacher}) for run in (smaller, same)]
    for run in (teacher, *runs):
        (row,) = execute(make_job(run), lambda _: None)
        assert row.status == "done", row.reason
    assert measured == [96, 96]


def test_its_forward_may_have_a_precision_of_its_own() -> None:
    recipe = load_recipe("cifar_mini", {"teacher_precision": "bfloat16"})
    teacher = networks.build("resnet8", 10).eval()
    images = torch.randn(4, 3, 16, 16)
    batch = Batch(images, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    rounded, exact = teacher_forward(teacher, batch, recipe), teacher_forward(teacher, batch, load_recipe("cifar_mini"))
    assert isinstance(rounded.logits, Tensor) and isinstance(exact.logits, Tensor)
    assert (rounded.logits.dtype, exact.logits.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(rounded.logits.float(), exact.logits, rtol=0.05, atol=0.05)
    with autocast(recipe, images.device):  # a student's stays
        assert teacher(images).logits.dtype == torch.float32
