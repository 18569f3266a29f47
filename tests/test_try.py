"""`kdbench try`: one small pair, with and without distillation, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import kdbench
from kdbench import cli


def test_its_recipe_fields_exist_and_give_a_teacher_and_three_students(tmp_path: Path, embedded_data: Path) -> None:
    options = {"changes": cli.TRY, "results": tmp_path, "data_root": embedded_data}
    [plan] = kdbench.plan("dist/cifar100", log=lambda line: None, scale="mini", **options)
    assert sorted((run.student, run.method) for run in plan.plan.runs) == [
        ("resnet20", "none"),
        ("resnet8", "dist"),
        ("resnet8", "kd"),
        ("resnet8", "none"),
    ]
    assert all(run.recipe.epochs <= 2 for run in plan.plan.runs)


@pytest.mark.usefixtures("jobs_in_this_process")
def test_it_trains_and_prints_the_table(tmp_path: Path, embedded_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_DATA", str(embedded_data))
    steps = {"epochs": 1, "max_steps": 1, "batch_size": 4}
    monkeypatch.setattr(cli, "TRY", steps | {f"teacher.{name}": value for name, value in steps.items()})
    done = CliRunner().invoke(cli.app, ["try"])
    assert done.exit_code == 0, done.output
    assert "4 of 4 runs done" in done.output
    assert "resnet20 -> resnet8" in done.output and "not comparable (mini)" in done.output
    assert len(kdbench.rows("results/try")) == 4
    assert {path.suffix for path in Path("results/try/tables").iterdir()} == {".csv", ".md", ".tex"}
    assert not Path("results/runs").exists()
