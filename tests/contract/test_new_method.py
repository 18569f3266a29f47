"""`kdbench new method`: what it writes keeps the contract and trains, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdbench.contract.new_method import TASKS
from kdbench.datasets.digits import write_coco
from kdbench.spec.table import load_table
from tests.helpers import masks
from tests.helpers.command import jobs_environment
from tests.helpers.command import kdbench as command
from tests.test_cli import SHORT

pytestmark = pytest.mark.usefixtures("fresh_methods")


def new(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return command("new", *words, folder=folder, environment={})


@pytest.mark.parametrize("task", TASKS)
def test_what_it_writes_keeps_the_contract_and_is_formatted(task: str, tmp_path: Path) -> None:
    done = new(tmp_path, "method", "first_one", "--task", task)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first_one.py", "test_first_one.py"]
    table, beside, *_ = TASKS[task]
    assert done.stdout.splitlines()[1:] == [
        "  kdbench check --methods ./first_one.py",
        f"  kdbench run {table} --methods {beside},./first_one.py",
    ]
    assert load_table(table).task == task
    assert beside in {entry.method for pair in load_table(table).pairs for entry in load_table(table).entries(pair)}
    checked = command("check", "--methods", "./first_one.py", folder=tmp_path, environment={})
    assert checked.returncode == 0, checked.stdout
    ruff = [sys.executable, "-m", "ruff"]
    settings = ["--no-cache", "--config", str(Path(__file__).parents[2] / "pyproject.toml")]
    for words in (["check"], ["format", "--check"]):
        linted = subprocess.run(
            [*ruff, *words, *settings, "."], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.integration
def test_its_test_passes_and_fails_with_the_reason(tmp_path: Path) -> None:
    new(tmp_path, "method", "first_two")

    def pytest_of_the_user() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=."]
        variables = os.environ | jobs_environment()
        return subprocess.run(
            [*words, "test_first_two.py"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )

    assert "1 passed" in pytest_of_the_user().stdout
    file = tmp_path / "first_two.py"
    file.write_text(file.read_text().replace("weight: float = 1.0", "weight: float = 1.0, gamma: float = 1.0"))
    failed = pytest_of_the_user()
    assert failed.returncode == 1 and "option gamma is not described in the docstring of FirstTwo" in failed.stdout


def write_arrays(path: Path) -> None:
    """An .npz of small images of four classes."""
    rng = np.random.default_rng(0)
    images = {f"x_{split}": rng.integers(0, 256, (24, 16, 16, 3), np.uint8) for split in ("train", "test")}
    np.savez(path.with_suffix(".npz"), **images, **{f"y_{split}": np.arange(24) % 4 for split in ("train", "test")})  # type: ignore[arg-type]


def write_boxes(path: Path) -> None:
    path.mkdir()
    write_coco(path, train=8, val=4, size=96)


def write_masks(path: Path) -> None:
    masks.write(path, [masks.picture(64, 128, seed) for seed in range(8)], [masks.picture(64, 128, 9)])


@pytest.mark.parametrize(
    ("task", "data", "write"),
    [
        ("classification", "own.npz", write_arrays),
        ("detection", "own", write_boxes),
        ("segmentation", "own", write_masks),
    ],
)
@pytest.mark.usefixtures("jobs_in_this_process")
def test_what_it_writes_trains(task: str, data: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    new(tmp_path, "method", "first_three", "--task", task)
    write(tmp_path / "own")
    table, *_ = TASKS[task]
    pair = load_table(table).pairs[0]
    words = ["run", table, "--data", data, *SHORT, "--seeds", "1", "--pairs", f"{pair.teacher}->{pair.student}"]
    done = command(*words, "--methods", "./first_three.py", folder=tmp_path, environment=jobs_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/row.json")]
    assert "first_three" in {row["run"]["method"] for row in rows}
    assert {row["status"] for row in rows} == {"done"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method", "two words"], "'two words' is no name in Python"),
        (["method", "class"], "'class' is no name in Python"),
        (["method", "own.py"], "write own"),
        (["method", "kd"], "there is a method kd already"),
        (["method", "random"], "random is a Python module"),
        (["method", "fine", "--task", "segmentatoin"], "Did you mean 'segmentation'?"),
        (["metod", "fine"], "Did you mean 'method'?"),
    ],
)
def test_what_it_cannot_write_is_one_message(words: list[str], message: str, tmp_path: Path) -> None:
    done = new(tmp_path, *words)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("existing", ["mine.py", "test_mine.py"])
def test_it_overwrites_nothing(existing: str, tmp_path: Path) -> None:
    (tmp_path / existing).write_text("kept")
    done = new(tmp_path, "method", "mine")
    assert done.returncode == 2 and f"{existing} is there already" in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(existing, "kept")]


@pytest.mark.parametrize("name", ["method", "true", "_1", "tensor"])
def test_a_name_that_its_class_cannot_have_works(name: str, tmp_path: Path) -> None:
    assert new(tmp_path, "method", name).returncode == 0
    checked = command("check", "--methods", f"./{name}.py", folder=tmp_path, environment={})
    assert checked.returncode == 0, checked.stdout
