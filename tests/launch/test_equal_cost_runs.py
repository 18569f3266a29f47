"""`kdbench run --equal-cost` from the command line: what it adds, trains and prints."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from kdbench.records.row import Row
from kdbench.records.row_file import encode
from kdbench.records.store import read_all
from tests.helpers.command import jobs_environment
from tests.helpers.command import kdbench as command

TABLE = """
paper: test
title: a table of a test
citation: none
task: classification
dataset: {full: cifar100, mini: digits}
data_size: {train_images: 50000, val_images: 10000, classes: 100}
metric: top1
recipe: {full: cifar_240, mini: cifar_mini}
teacher_recipe: {full: cifar_240, mini: cifar_mini_teacher}
pairs:
  - {teacher: resnet56, student: resnet20, mini: {teacher: resnet14, student: resnet8}}
methods:
  - {method: none}
  - {method: at}
"""
SMALL = ("epochs=2", "max_steps=4", "batch_size=8", "teacher.epochs=1", "teacher.max_steps=2",
         "teacher.batch_size=8")  # fmt: skip
SECONDS = {"none": 0.1, "kd": 0.2, "at": 0.4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = {
        f"x_{name}": rng.integers(0, 256, (size, 16, 16, 3), np.uint8) for name, size in (("train", 48), ("test", 20))
    }
    labels = {f"y_{name}": np.arange(size) % 4 for name, size in (("train", 48), ("test", 20))}
    np.savez(tmp_path / "mine.npz", **images, **labels)  # type: ignore[arg-type]
    (tmp_path / "table.yaml").write_text(TABLE)
    return tmp_path


def kdbench(folder: Path, *words: str) -> str:
    environment = {"KDBENCH_DATA": str(folder / "data"), "COLUMNS": "300"} | jobs_environment()
    done = command(*words, "--scale", "mini", folder=folder, environment=environment)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def run(folder: Path, *words: str) -> str:
    settings = [word for change in SMALL for word in ("--set", change)]
    return kdbench(folder, "run", "table.yaml", "--data", "mine.npz", *settings, *words)


def records(folder: Path, method: str) -> dict[str, str]:
    (file,) = folder.glob("results/tables/*.csv")
    with file.open(newline="") as handle:
        (record,) = (each for each in csv.DictReader(handle) if each["method"] == method)
    return record


def rows_of(folder: Path) -> list[Row]:
    rows, invalid = read_all([folder / "results" / "runs"])
    assert not invalid
    return rows


@pytest.mark.usefixtures("jobs_in_this_process")
def test_kd_joins_and_trains_as_long_as_a_slower_method(folder: Path) -> None:
    planned = run(folder, "--equal-cost", "--explain")
    assert "4 runs in " in planned  # the table lists no kd
    assert (
        "  --equal-cost: none and kd trained as long as a method takes, once its cost is measured: at, kd\n" in planned
    )
    run(folder, "--methods", "at,kd")
    for row in rows_of(folder):  # steps of milliseconds tell no cost
        assert row.cost
        cost = row.cost.model_copy(update={"step_seconds": SECONDS[row.run.method], "prepare_seconds": 0.0})
        file = folder / "results" / "runs" / row.id / "row.json"
        file.write_bytes(encode(row.model_copy(update={"cost": cost})))
    told = run(folder, "--equal-cost")
    assert "4 finished before" in told
    assert "  --equal-cost: then 2 runs of none and 1 run of kd, each as long as a method takes\n" in told
    assert "4 of 4 runs done" in told and "3 of 3 runs done" in told
    by_steps = {(row.run.method, row.run.recipe.max_steps): row for row in rows_of(folder)}
    assert {("none", 8), ("none", 16), ("kd", 8)} <= by_steps.keys()
    longer, kd, at = (by_steps[key] for key in (("kd", 8), ("kd", 4), ("at", 4)))
    assert longer.run.teacher == kd.run.teacher == at.run.teacher and longer.teacher == kd.teacher
    assert (longer.run.options, longer.history[-1].steps) == (kd.run.options, 8)
    kdbench(folder, "table", "table.yaml")
    value = {key: row.metrics.last["top1"] for key, row in by_steps.items() if row.metrics}
    line = records(folder, "at")
    assert float(line["gain_kd_equal"]) == pytest.approx(value["at", 4] - value["kd", 8])
    assert float(line["gain_equal"]) == pytest.approx(value["at", 4] - value["none", 16])
    line = records(folder, "kd")
    assert line["gain_kd_equal"] == "" and float(line["measured"]) == pytest.approx(value["kd", 4])
