"""A tiny classification set, and short runs on it with a teacher that is trained once."""

from __future__ import annotations

import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from kdbench import datasets, methods
from kdbench.records import checkpoint as checkpoints
from kdbench.records.row import Row
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.spec.run import Run
from kdbench.tasks.base import Task
from kdbench.tasks.classification import ClassificationTask
from kdbench.train.job import Job, execute

OPTIONS = {"train": 24, "val": 10}
STEPS = 3  # an epoch
SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 8, "warmup_steps": 2, "eval_every": 1}
QUICK: dict[str, dict[str, Any]] = {
    "mag+kd": {"module_epochs": 1},
    "mag+crd": {"module_epochs": 1, "negatives": 8},
    "mas+at": {"module_epochs": 1},
    "crd": {"negatives": 8},
    "ab": {"initial_epochs": 1},
    "fsp": {"initial_epochs": 1},
    "ft": {"paraphraser_epochs": 1},
    "sskd": {"module_epochs": 1},
    "ad": {"safe": True},
}
"""Options that make a method fit for so few images and steps."""

EKD: tuple[dict[str, Any], ...] = ({"teachers": 2}, {"guided": False, "snapshots": 2})
"""EKD with more networks beside the student than one."""


def short(**changes: Any) -> Recipe:
    return load_recipe("cifar_mini", SHORT | changes)


class Pictures:
    """24 pictures of digits below `root`.

    Attributes:
        teacher: the run that `run` gives methods with a frozen teacher; `job` lays its finished folder ready.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = ClassificationTask.describe(datasets.open_images("digits", root, **OPTIONS), OPTIONS)
        self.teacher = self.run(student="resnet14")

    def run(self, method: str = "none", student: str = "resnet8", recipe: Recipe | None = None, **more: Any) -> Run:
        """One run; `options` are laid over QUICK, anything else in `more` is a field of the run."""
        options = methods.resolve(method, QUICK.get(method, {}) | more.pop("options", {}))
        mode = methods.teacher_mode(method, options)
        if mode == "frozen":
            more = {"teacher": self.teacher} | more
        elif mode == "online":
            more = {"online_teacher": "resnet14"} | more
        fields = {"task": "classification", "scale": "mini", "data": self.data, "seed": 0} | more
        return Run(student=student, method=method, options=options, recipe=recipe or short(), **fields)

    def job(self, results: Path, *runs: Run, **more: Any) -> Job:
        if any(run.teacher == self.teacher for run in runs):
            shutil.copytree(self._taught, results / self.teacher.id, dirs_exist_ok=True)
        return Job(runs=runs, data_root=self.root, results=results, **more)

    def task(self, run: Run) -> Task:
        return ClassificationTask(datasets.open_images("digits", self.root, **OPTIONS), run.recipe, run.data_seed)

    @cached_property
    def _taught(self) -> Path:
        job = Job(runs=(self.teacher,), data_root=self.root, results=self.root / "teachers")
        (row,) = execute(job, lambda _: None)
        assert row.status == "done", row.reason
        return job.results / self.teacher.id


def state_of(results: Path, run: Run, file: str = "student.pt") -> dict[str, Any]:
    """The tensors in a file that a run left."""
    state: dict[str, Any] = checkpoints.read(results / run.id / file)["state"]
    return state


def done(rows: list[Row]) -> list[Row]:
    assert {row.run.method: row.reason for row in rows if row.status != "done"} == {}
    return rows


def numbers(row: Row) -> tuple[Any, ...]:
    """Everything that a run measured but time and memory."""
    assert row.student
    score = row.teacher.measured if row.teacher else None
    return row.metrics, row.history, row.student.sha256, score, row.learned


def counted(monkeypatch: pytest.MonkeyPatch, target: type, fail: Any = lambda call: False) -> list[int]:
    """Count the calls of `target.prepare`; those that `fail` says break."""
    prepare, calls = target.prepare, []  # type: ignore[attr-defined]

    def prepared(self: Any, *given: Any) -> None:
        calls.append(len(calls) + 1)
        if fail(calls[-1]):
            raise RuntimeError("no such kernel")
        time.sleep(0.05)
        prepare(self, *given)

    monkeypatch.setattr(target, "prepare", prepared)
    return calls
