"""Segmentation runs: in a cohort as alone, resumed, and from the command line to a picture of what networks see."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench import datasets, methods
from kdbench.records import checkpoint as checkpoints
from kdbench.records.row import Row
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.spec.run import Run
from kdbench.tasks.segmentation import SegmentationTask
from kdbench.train import loop as training
from kdbench.train.events import Event
from kdbench.train.job import Job, execute
from tests.helpers.command import kdbench as command

pytestmark = pytest.mark.integration

SHORT: dict[str, Any] = {"epochs": 2, "epoch_steps": 2, "batch_size": 2, "image.height": 32, "image.width": 48}
QUICK: dict[str, dict[str, Any]] = {
    "cirkd+kd": {
        "cirkd": {
            "pixel_memory_size": 20,
            "region_memory_size": 4,
            "pixel_contrast_size": 16,
            "region_contrast_size": 8,
        }
    }
}
MIXED = ("none", "kd", "cwd+kd", "cirkd+kd", "akd+masked_generative", "dist", "ad", "skd+kd+adversarial")
STATEFUL = ("cirkd+kd", "ad", "skd+kd+adversarial", "afdcd")
CLASSES = ("ground", "square", "stripe")
VOID = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and three validation images of 64x96 pixels in three classes; 9 is void."""
    path = tmp_path_factory.mktemp("data") / "shapes"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for kind in ("images", "masks"):
            (path / kind / split).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((64, 96), dtype=np.uint8)
            y, x = rng.integers(0, (40, 70))
            mask[y : y + 24, x : x + 24] = 1
            mask[:, (x + 40) % 80 : (x + 40) % 80 + 12] = 2
            mask[:2] = VOID
            colours = np.array([(60, 60, 60), (220, 40, 40), (40, 40, 220)])[mask.clip(0, 2)]
            image = colours + rng.integers(-20, 20, (64, 96, 1))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path / "images" / split / f"{i}.png")
            Image.fromarray(mask).save(path / "masks" / split / f"{i}.png")
    (path / "classes.txt").write_text("\n".join(CLASSES))
    return path


class Shapes:
    """Runs on the folder, with a teacher that is trained once."""

    def __init__(self, folder: Path, results: Path) -> None:
        self.folder, self.results = folder, results
        self.data = SegmentationTask.describe(datasets.open_masks("", folder, folder, ignore_index=VOID))
        self.teacher = self.run(student="segmenter_mini_teacher")
        self.taught = self.execute(results, self.teacher)[0]

    def run(self, method: str = "none", student: str = "segmenter_mini_student", **recipe: Any) -> Run:
        options = methods.resolve(method, QUICK.get(method, {}))
        teacher = self.teacher if method != "none" else None
        chosen: Recipe = load_recipe("cityscapes_mini", SHORT | recipe)
        return Run(
            task="segmentation",
            scale="mini",
            data=self.data,
            student=student,
            teacher=teacher,
            method=method,
            options=options,
            recipe=chosen,
            seed=0,
        )

    def execute(self, results: Path, *runs: Run, report: Any = lambda event: None) -> list[Row]:
        if results != self.results and not (results / self.teacher.id).exists():
            results.mkdir(parents=True, exist_ok=True)
            (results / self.teacher.id).symlink_to(self.results / self.teacher.id)
        places: dict[str, Any] = {"data_root": self.folder, "data_path": self.folder, "results": results}
        rows = execute(Job(runs=runs, data_options={"ignore_index": VOID}, **places), report)
        assert {row.run.method: row.reason for row in rows if row.status != "done"} == {}
        return rows


@pytest.fixture(scope="module")
def shapes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    return Shapes(folder, tmp_path_factory.mktemp("teachers"))


def same(one: Row, other: Row) -> bool:
    """Equal in all that was measured but time and memory; the student's file included, tensor by tensor."""
    assert one.student and other.student
    return (one.metrics, one.history, one.student.sha256) == (other.metrics, other.history, other.student.sha256)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_cohort_ends_bitwise_as_its_students_do_alone(precision: str, shapes: Shapes, tmp_path: Path) -> None:
    runs = [shapes.run(method, precision=precision, epochs=1) for method in MIXED]
    rows = shapes.execute(tmp_path / "together", *runs)
    assert len({row.student.sha256 for row in rows if row.student}) == len(MIXED)
    for run, row in zip(runs, rows, strict=True):
        (alone,) = shapes.execute(tmp_path / "alone", run)
        assert same(row, alone), run.method


class Killed(BaseException):
    """As a signal: nothing in the harness may catch it."""


def test_a_run_killed_within_an_epoch_goes_on_from_there_and_ends_bitwise_the_same(
    shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "READ_EVERY", 1)
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    runs = [shapes.run(method, epochs=1, epoch_steps=4) for method in STATEFUL]
    whole = shapes.execute(tmp_path / "whole", *runs)

    def kill(event: Event) -> None:
        # Saved at step 2; of the two steps that are left, the last one shows how the discriminator's optimizer went on.
        if event.event == "step" and event.step == 3:
            raise Killed

    with pytest.raises(Killed):
        shapes.execute(tmp_path / "parts", *runs, report=kill)
    for one, other in zip(whole, shapes.execute(tmp_path / "parts", *runs), strict=True):
        assert same(one, other), one.run.method


def test_a_row_holds_every_metric_and_the_saved_student_is_the_network_alone(shapes: Shapes) -> None:
    row = shapes.taught
    assert row.metrics and row.student and row.cost and row.empty_classes == ()
    assert set(row.metrics.last) == {"miou", "pixel_accuracy", *(f"iou/{name}" for name in CLASSES)}
    assert row.metrics.evaluator.startswith("torchmetrics ") and row.cost.image_size == (32, 48)
    assert set(row.history[-1].losses) == {"cross_entropy", "aux_cross_entropy"}
    state = checkpoints.read(shapes.results / row.student.file)["state"]
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_a_row_names_the_classes_without_a_training_pixel(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "more")
    with (tmp_path / "more" / "classes.txt").open("a") as stream:
        stream.write("\nbus")
    assert Shapes(tmp_path / "more", tmp_path / "results").taught.empty_classes == ("bus",)


TABLE = """
paper: example
title: Two methods on shapes
citation: none
task: segmentation
dataset: {full: cityscapes, mini: digits}
data_size: {train_images: 2975, val_images: 500, classes: 19}
metric: miou
selection: best
recipe: {full: cityscapes_cirkd, mini: cityscapes_mini}
teacher_recipe: {full: cityscapes_cirkd, mini: cityscapes_mini_teacher}
reported: [{file: cirkd, table: cityscapes}]
methods:
  - {method: none}
  - {method: kd, options: {weight: 1.0, task_weight: 1.0, temperature: 1.0}}
pairs:
  - teacher: deeplabv3_r101
    student: deeplabv3_r18
    mini: {teacher: segmenter_mini_teacher, student: segmenter_mini_student}
"""


@pytest.mark.usefixtures("jobs_in_this_process")
def test_masks_of_ones_own_run_from_the_command_line_to_a_panel(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "table.yaml").write_text(TABLE)

    def kdbench(*words: str) -> subprocess.CompletedProcess[str]:
        return command(*words, folder=tmp_path, environment={"KDBENCH_DATA": str(tmp_path / "data"), "COLUMNS": "150"})

    changes = [f"{who}{name}={value}" for who in ("", "teacher.") for name, value in SHORT.items()]
    own = ("--data", str(folder), "--ignore-index", str(VOID))
    ran = kdbench("run", "table.yaml", "--scale", "mini", *own, *(word for c in changes for word in ("--set", c)))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 of 3 runs done" in ran.stdout
    drawn = kdbench("plots", "table.yaml", "--scale", "mini", *own)
    assert drawn.returncode == 0, drawn.stderr
    with Image.open(tmp_path / "results/plots/shapes-table-panel.png") as panel:
        assert panel.width == 1200
    wrong = kdbench("run", "table.yaml", "--scale", "mini", *own[:2])
    assert wrong.returncode == 2 and "contains label 9, which is of no class" in wrong.stderr
