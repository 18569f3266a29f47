"""A small real detection set and short runs on it, shared by the tests of the harness."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Small networks gain nothing from a second thread, and lose much on a busy machine; processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from kdbench import methods
from kdbench.datasets import open_coco
from kdbench.datasets.coco import CocoFolder
from kdbench.datasets.digits import write_coco
from kdbench.methods import _outside
from kdbench.networks import detectron2
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.spec.run import Data, Run
from kdbench.train.job import Job
from tests.helpers.engines import InProcess

SHORT = {
    "epoch_steps": None,
    "epochs": 2,
    "batch_size": 4,
    "eval_every": 1,
    "warmup_steps": 2,
    "precision": "float32",
    "image": {"shorter": 96, "longer": 96, "flip": 0.5},
}

LONGEST = (
    "test_several_gpus", "test_cells", "test_ray_nodes", "test_cli", "test_researchers_day", "test_job",
    "test_engine", "test_segmentation_run", "test_export", "test_docs", "test_killed_run", "test_browser",
    "test_evaluation", "test_classification_run", "test_memory", "test_contract", "test_cluster", "test_ray",
    "test_new_method", "test_compiled", "test_latency", "test_wheel", "test_api", "test_latex",
    "test_detector_sizes", "test_torchvision_names", "test_estimates", "test_accumulate", "test_figures_browser",
    "test_shared_folder",
)  # fmt: skip
"""Files of tests that take half a minute and more. They start first, so that no process ends long after the others."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "integration: clusters, browsers, several GPUs, exports, wheels, killed runs, networks of full size"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # small networks gain nothing from a second one, and lose much on a busy machine


@pytest.fixture
def jobs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command trains takes no seconds to start; tests/test_cli.py has jobs in processes of their own."""
    monkeypatch.setattr("kdbench.launch.site.LocalEngine", lambda *_: InProcess())


@pytest.fixture
def fresh_methods(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files of methods that one test registers, no other sees."""
    monkeypatch.setattr(_outside, "_files", {})
    yield
    methods._parameters.cache_clear()


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
