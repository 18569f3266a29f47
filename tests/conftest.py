"""A small real detection set and short runs on it, shared by the tests of the harness."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.datasets import open_coco
from kdbench.datasets.coco import CocoFolder
from kdbench.datasets.digits import write_coco
from kdbench.networks import detectron2
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.spec.run import Data, Run
from kdbench.train.job import Job

SHORT = {
    "epoch_steps": None,
    "epochs": 2,
    "batch_size": 4,
    "eval_every": 1,
    "warmup_steps": 2,
    "precision": "float32",
    "image": {"shorter": 96, "longer": 96, "flip": 0.5},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # small networks gain nothing from a second one, and lose much on a busy machine


@pytest.fixture
def without_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the COCO tables run at full scale hangs on it."""
    monkeypatch.setattr(detectron2, "unavailable", lambda: "detectron2 is not installed")


@pytest.fixture(scope="session")
def embedded_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder for whole commands: what the first one generates in it, which takes long, the others find."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "embedded"  # one for all processes
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def digits_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "small"
    path.mkdir()
    write_coco(path, train=16, val=8, size=96)
    return path


@pytest.fixture(scope="session")
def digits(digits_path: Path) -> CocoFolder:
    return open_coco("coco", digits_path.parent, digits_path)


@pytest.fixture
def short() -> Recipe:
    return load_recipe("coco_mini", dict(SHORT))


@pytest.fixture
def make_run(digits: CocoFolder, short: Recipe) -> Any:
    """make_run(method, student=..., teacher=True, recipe=short, options={}) -> Run."""
    data = Data(
        name=digits.name,
        fingerprint=digits.fingerprint,
        train_images=len(digits.train),
        val_images=len(digits.val),
        classes=len(digits.classes),
    )

    def make(method: str = "none", family: str = "fcos", recipe: Recipe = short, **options: Any) -> Run:
        from kdbench import methods

        def build(network: str, name: str, **more: Any) -> Run:
            resolved = methods.resolve(name, options if name == method else {})
            return Run(
                task="detection", scale="mini", data=data, student=network, method=name, options=resolved,
                recipe=recipe, seed=0, **more,
            )  # fmt: skip

        if method == "teacher":
            return build(f"{family}_mini_teacher", "none")
        teacher = (
            build(f"{family}_mini_teacher", "none")
            if methods.teacher_mode(method, methods.resolve(method, {})) != "none"
            else None
        )
        return build(f"{family}_mini_student", method, teacher=teacher)

    return make


@pytest.fixture
def make_job(digits_path: Path, tmp_path: Path) -> Any:
    """make_job(*runs) -> Job that keeps its results below `tmp_path`."""

    def make(*runs: Run, results: Path = tmp_path / "runs", **more: Any) -> Job:
        return Job(runs=runs, data_root=digits_path.parent, data_path=digits_path, results=results, **more)

    return make
