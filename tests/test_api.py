"""The Python API: a cheap import, the options of a run, rows and comparisons as DataFrames."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import kdbench
from kdbench import networks
from kdbench.datasets import open_images
from kdbench.errors import CheckpointError, SpecError
from kdbench.records.store import Store
from kdbench.spec.table import load_table
from tests.helpers.rows import make_row


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "('torch', 'pandas', 'numpy', 'pydantic', 'typer', 'yaml')"
    check = f"import kdbench, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_lists_its_functions_and_refuses_other_names() -> None:
    assert set(kdbench.__all__) <= set(dir(kdbench))
    assert kdbench.__version__ == version("kdbench")
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        _ = kdbench.runs  # type: ignore[attr-defined]


def test_a_table_is_loaded_by_name_or_path(tmp_path: Path) -> None:
    table = kdbench.load_table("dist/cifar100")
    assert table.metric == "top1"
    with pytest.raises(SpecError, match="Did you mean 'dist/cifar100'"):
        kdbench.load_table("dist/cifar10")


def test_a_plan_takes_options_as_a_notebook_writes_them(tmp_path: Path, embedded_data: Path) -> None:
    lines: list[str] = []
    options = {"scale": "mini", "methods": ["kd"], "seeds": 2, "results": str(tmp_path), "data_root": embedded_data}
    [plan] = kdbench.plan("dist/cifar100", log=lines.append, **options)
    assert sorted((run.method, run.student, run.seed) for run in plan.plan.runs) == [
        ("kd", "resnet8", 0),
        ("kd", "resnet8", 1),
        ("none", "resnet20", 0),
        ("none", "resnet8", 0),
        ("none", "resnet8", 1),
    ]
    assert any(line.startswith("5 runs") for line in lines)
    same = kdbench.plan("dist/cifar100", log=lines.append, **options | {"methods": "kd", "seeds": "0,1"})
    assert same[0].plan.runs == plan.plan.runs


def test_explain_prints_the_plan_and_runs_nothing(tmp_path: Path, embedded_data: Path) -> None:
    options = {"scale": "mini", "methods": ["none"], "changes": ["lr=0.1"], "data_root": embedded_data}
    lines: list[str] = []
    frame = kdbench.run("dist/cifar100", log=lines.append, results=tmp_path / "runs", explain=True, **options)
    assert frame.empty and not (tmp_path / "runs").exists()
    assert any("1 to do" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": 1}, "Did you mean 'seeds'"), ({"scale": "midi"}, "midi"), ({"seeds": "three"}, "--seeds three")],
)
def test_a_wrong_option_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        kdbench.plan("dist/cifar100", **options)


def store(folder: Path, values: dict[str, float], status: str = "done", **changes: Any) -> None:
    """Rows of the first pair of akd/coco at scale mini: a method and its AP each."""
    table = load_table("akd/coco")
    pair = next(pair for pair in table.pairs if pair.mini)
    for entry in table.entries(pair):
        if entry.display_name in values:
            value = values[entry.display_name]
            Store(folder).write(
                make_row(table, pair, entry, "mini", 0, value, best=value + 1, status=status, **changes)
            )


def test_rows_are_one_line_a_run_with_metrics_cost_and_origin(tmp_path: Path) -> None:
    store(tmp_path, {"none": 24.0, "mimic": 27.5})
    store(tmp_path, {"cwd": 0.0}, status="diverged", reason="loss is NaN at step 3")
    frame = kdbench.rows(tmp_path).set_index("method")
    assert frame.ap.dropna().to_dict() == {"none": 24.0, "mimic": 27.5}
    assert frame.best_ap["mimic"] == 28.5
    assert frame.status["cwd"] == "diverged" and frame.reason["cwd"] == "loss is NaN at step 3"
    assert pd.isna(frame.step_seconds["cwd"]) and frame.step_seconds["none"] == 0.08
    assert pd.isna(frame.teacher["none"]) and frame.teacher["mimic"].endswith("teacher")
    assert frame.options["mimic"]["weight"] > 0
    assert frame.weights["mimic"] == f"{frame.id['mimic']}/student.pt"


def test_a_folder_without_rows_is_an_empty_frame_with_columns(tmp_path: Path) -> None:
    frame = kdbench.rows(tmp_path / "nothing")
    assert frame.empty and list(frame[["id", "status", "method"]]) == ["id", "status", "method"]


def test_a_comparison_is_one_line_a_cell(tmp_path: Path) -> None:
    store(tmp_path / "base", {"none": 24.0, "mimic": 27.5})
    store(tmp_path / "head", {"none": 24.0, "mimic": 2.5}, finished="2026-02-01T00:00:00+00:00")
    frame = kdbench.compare(tmp_path / "base", tmp_path / "head").set_index("method")
    assert frame.accuracy.to_dict() == {"none": "unchanged", "mimic": "regressed"}
    assert frame.accuracy_change["mimic"] == -25.0
    assert frame.base_rows["mimic"] == frame.head_rows["mimic"] == 1
    with pytest.raises(SpecError, match="no such folder"):
        kdbench.compare(tmp_path / "base", tmp_path / "nothing")


def test_a_checkpoint_is_evaluated_by_name(tmp_path: Path, embedded_data: Path) -> None:
    torch.manual_seed(0)
    network = networks.build("resnet8", 10)
    torch.save(network.state_dict(), tmp_path / "resnet8.pt")
    data = open_images("digits", embedded_data)
    metrics = kdbench.evaluate("resnet8", tmp_path / "resnet8.pt", data="digits", root=embedded_data)
    assert set(metrics) == {"top1", "top5"}
    assert metrics["top1"] <= metrics["top5"] and metrics["top5"] < 100
    assert abs(metrics["top1"] * len(data.val) / 100 % 1) in (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))
    with pytest.raises(CheckpointError):
        kdbench.evaluate("resnet20", tmp_path / "resnet8.pt", data="digits", root=embedded_data)
    with pytest.raises(SpecError, match="no table evaluates classification on camvid"):
        kdbench.evaluate("resnet8", tmp_path / "resnet8.pt", data="camvid", root=tmp_path)
