"""The command line as a person meets it: whole commands, what they print and how they end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from kdbench.datasets.digits import write_coco
from tests.helpers.command import jobs_environment
from tests.helpers.command import kdbench as in_this_process

TABLE = """
paper: example
title: Two methods on a small set
citation: none
task: detection
dataset: {full: coco, mini: digits}
data_size: {train_images: 118287, val_images: 5000, classes: 80}
metric: ap
recipe: {full: coco_2x, mini: coco_mini}
teacher_recipe: {full: coco_2x, mini: coco_mini_teacher}
reported: [{file: dist, table: coco}]
methods:
  - {method: none}
  - {method: mimic}
  - {method: cwd, options: {align: null}, label: cwd of equal widths}
pairs:
  - teacher: retinanet_x101_fpn
    student: retinanet_r50_fpn
    mini: {teacher: fcos_mini_teacher, student: fcos_mini_student}
"""
CHANGES = ("epochs=1", "max_steps=1", "batch_size=4", "teacher.epochs=1", "teacher.max_steps=1", "teacher.batch_size=4")
SHORT = ("--scale", "mini", *(word for change in CHANGES for word in ("--set", change)))

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def kdbench(tmp_path_factory: pytest.TempPathFactory, embedded_data: Path) -> Command:
    """kdbench(*words) runs the command in a folder of its own; `own_process=True` as a person starts it."""
    home = tmp_path_factory.mktemp("home")
    (home / "table.yaml").write_text(TABLE)
    (home / "data").symlink_to(embedded_data)
    (home / "small").mkdir()
    write_coco(home / "small", train=12, val=6, size=96)
    environment = {"KDBENCH_DATA": str(home / "data"), "COLUMNS": "150"} | jobs_environment()

    def command(*words: str, own_process: bool = False) -> subprocess.CompletedProcess[str]:
        if not own_process:
            return in_this_process(*words, folder=home, environment=environment)
        line = [sys.executable, "-m", "kdbench", *words]
        variables = os.environ | environment
        return subprocess.run(line, capture_output=True, text=True, cwd=home, env=variables, check=False)

    command.home = home  # type: ignore[attr-defined]
    return command


def home_of(kdbench: Command) -> Path:
    return kdbench.home  # type: ignore[attr-defined,no-any-return]


def test_a_table_runs_prints_and_draws_and_one_failure_leaves_the_others_alone(kdbench: Command) -> None:
    first = kdbench("run", "table.yaml", "--data", "small", *SHORT, own_process=True)
    assert first.returncode == 1, first.stderr
    assert "3 of 4 runs done" in first.stdout
    assert re.search(r"failed: .*cwd.*align is null but widths differ", first.stdout)
    rows = [json.loads(file.read_text()) for file in home_of(kdbench).glob("results/runs/*/row.json")]
    assert sorted(row["status"] for row in rows) == ["done", "done", "done", "failed"]

    again = kdbench("run", "table.yaml", "--data", "small", *SHORT)
    assert "3 finished before" in again.stdout

    table = kdbench("table", "table.yaml", own_process=True)
    assert table.returncode == 0, table.stderr
    assert "mimic" in table.stdout and "failed" in table.stdout
    assert "small/table: own data" in table.stdout
    frame = pd.read_csv(home_of(kdbench) / "results" / "tables" / "small-table.csv")
    assert sorted(frame.verdict) == ["failed", "measured", "measured"]
    written = {file.suffix for file in (home_of(kdbench) / "results" / "tables").iterdir()}
    assert written == {".csv", ".md", ".tex"}

    plots = kdbench("plots", "table.yaml")
    assert plots.returncode == 0, plots.stderr
    assert {file.suffix for file in (home_of(kdbench) / "results" / "plots").iterdir()} == {".png", ".svg"}


def test_rows_that_do_not_fit_are_reported_and_left_out(kdbench: Command) -> None:
    broken = home_of(kdbench) / "results" / "runs" / "0123" / "row.json"
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_text('{"id": "0123"')
    table, check = kdbench("table", "table.yaml"), kdbench("check")
    assert table.returncode == 0
    assert "0123/row.json" in table.stdout
    assert check.returncode == 1
    [wrong] = [line for line in check.stdout.splitlines() if not line.startswith(("ok ", "     "))]
    assert "0123/row.json" in wrong
    shutil.rmtree(broken.parent)


def test_a_check_of_data_says_nothing_of_anything_else(kdbench: Command) -> None:
    [line] = kdbench("check", "--data", "small").stdout.splitlines()
    assert line.startswith("ok     data small: ")
    refused = kdbench("check", "--ignore-index", "3")
    assert refused.returncode == 2 and "--data" in refused.stderr


@pytest.mark.parametrize(("kind", "suffix"), [("methods", ".py"), ("table", ".yaml")])
def test_a_name_with_a_file_beside_it_is_answered_by_its_path(kind: str, suffix: str, kdbench: Command) -> None:
    file = home_of(kdbench) / f"beside{suffix}"
    file.write_text("")
    arguments = {"methods": ("run", "table.yaml", "--methods", "beside"), "table": ("run", "beside")}[kind]
    refused = kdbench(*arguments, "--explain")
    file.unlink()
    assert refused.returncode == 2 and f"A file is given by its path: ./beside{suffix}." in refused.stderr


def test_help_lists_every_verb(kdbench: Command) -> None:
    shown = kdbench("--help", own_process=True).stdout
    assert all(verb in shown for verb in ("run", "table", "plots", "list", "check"))


@pytest.mark.parametrize("kind", ["methods", "networks", "datasets", "tables", "recipes"])
def test_list_names_what_there_is(kind: str, kdbench: Command) -> None:
    known = {"methods": "akd+...", "networks": "fcos_r50_fpn", "datasets": "digits", "tables": "akd/coco"}
    assert known.get(kind, "coco_2x") in kdbench("list", kind).stdout


def damage_annotations(change: Callable[[dict[str, list[dict[str, object]]]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "annotations" / "instances_train2017.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return apply


def truncate_image(folder: Path) -> None:
    file = min((folder / "train2017").iterdir())
    file.write_bytes(file.read_bytes()[:100])


BROKEN_DATA = {
    "missing annotations": (
        lambda folder: (folder / "annotations" / "instances_val2017.json").unlink(),
        "instances_val",
    ),
    "truncated image": (truncate_image, r"train2017/\S+\.png"),
    "box outside": (
        damage_annotations(lambda c: c["annotations"][0].update(bbox=[500, 500, 9, 9])),
        r"annotation 1\b.*outside",
    ),
    "unknown category": (damage_annotations(lambda c: c["annotations"][0].update(category_id=77)), "77"),
}


@pytest.mark.parametrize("fault", BROKEN_DATA)
def test_broken_data_is_one_error_before_any_training(fault: str, kdbench: Command, tmp_path: Path) -> None:
    apply, words = BROKEN_DATA[fault]
    folder = tmp_path / "copy"
    shutil.copytree(home_of(kdbench) / "small", folder)
    apply(folder)
    done = kdbench("run", "table.yaml", "--data", str(folder), *SHORT, "--results", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_zero_area_box_is_dropped_and_said(kdbench: Command, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(home_of(kdbench) / "small", folder)
    damage_annotations(lambda c: c["annotations"][0].update(bbox=[5, 5, 0, 9], area=0))(folder)
    done = kdbench("run", "table.yaml", "--data", str(folder), *SHORT, "--explain")
    assert done.returncode == 0
    assert re.search(r"1 box dropped.*annotation 1\b", done.stdout)


BAD_WORDS = {
    "table": (["run", "akd/cocoo"], "Did you mean 'akd/coco'"),
    "method": (["run", "akd/coco", "--scale", "mini", "--data", "small", "--methods", "mimik"], "Did you mean 'mimic'"),
    "scale": (["run", "--scale", "tiny"], "unknown scale"),
    "recipe field": (["run", "--scale", "mini", "--data", "small", "--set", "epoch=1"], "Did you mean 'epochs'"),
    "recipe value": (["run", "--scale", "mini", "--data", "small", "--set", "epochs=soon"], "epochs"),
    "setting": (["run", "--scale", "mini", "--data", "small", "--set", "epochs"], "FIELD=VALUE"),
    "seeds": (["run", "--scale", "mini", "--data", "small", "--seeds", "many"], "--seeds many"),
    "kind": (["list", "method"], "Did you mean 'methods'"),
    "data": (["run", "--data", "nowhere"], "nowhere"),
    "real COCO": (["run", "dist/coco", "--scale", "full"], "data/coco"),
    "seed": (["run", "--scale", "mini", "--data", "small", "--seeds", "0"], "--seeds 0"),
    "device": (["run", "--scale", "mini", "--data", "small", "--device", "gpu"], "available: cpu"),
    "batch": (["run", "--scale", "mini", "--data", "small", "--set", "batch_size=500"], "above the 12 training images"),
    "teacher": (["run", "--scale", "mini", "--data", "small", "--teacher", "none.pt"], "none.pt does not exist"),
}


@pytest.mark.parametrize("what", BAD_WORDS)
def test_a_bad_word_is_one_error_that_says_what_to_do(what: str, kdbench: Command) -> None:
    words, answer = BAD_WORDS[what]
    done = kdbench(*words, own_process=what in ("table", "kind"))
    assert done.returncode == 2
    assert answer in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("metrik: ap", "metrik: unknown key: 'metrik'. Did you mean 'metric'?"),
        ("seeds: three", "seeds:"),
        ("selection: lowest", "selection:"),
        ("notes: !!python/object/apply:os.system ['touch executed']", "not valid YAML"),
    ],
)
def test_a_wrong_table_file_names_file_and_field(line: str, answer: str, kdbench: Command) -> None:
    file = home_of(kdbench) / "wrong.yaml"
    file.write_text(TABLE + line + "\n")
    done = kdbench("run", "wrong.yaml", "--scale", "mini", "--data", "small")
    assert done.returncode == 2
    assert "wrong.yaml" in done.stderr and answer in done.stderr
    assert not (home_of(kdbench) / "executed").exists()


def test_networks_that_cannot_be_paired_are_refused(kdbench: Command) -> None:
    file = home_of(kdbench) / "wrong.yaml"
    file.write_text(TABLE.replace("teacher: fcos_mini_teacher", "teacher: retinanet_mini_teacher"))
    done = kdbench("run", "wrong.yaml", "--scale", "mini", "--data", "small")
    assert done.returncode == 2
    assert "pairs[0].mini" in done.stderr and "cannot teach" in done.stderr
