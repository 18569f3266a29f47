"""From a request to plans: which tables a data set is for, what is refused before any work, and one real command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbench import networks
from kdbench.datasets import DataError
from kdbench.errors import CheckpointError, SpecError, StoreError
from kdbench.launch import devices, memory, planning
from kdbench.launch.explain import explain
from kdbench.launch.planning import FinalPlan, choose_scale, make_plans
from kdbench.methods.base import MethodError
from kdbench.records import checkpoint as checkpoints
from kdbench.spec.choice import parse_methods
from kdbench.spec.request import RunRequest, TeacherFile, parse_teachers
from kdbench.spec.scale import Scale
from kdbench.spec.table import MethodEntry, Networks, Pair, Table, load_table
from tests.helpers.command import jobs_environment
from tests.helpers.command import kdbench as command
from tests.helpers.tables import cifar_table, fixed_table

SMALL = {"batch_size": 8, "teacher.batch_size": 8}
Plans = Callable[..., list[FinalPlan]]


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "mine.npz", classes=4)


def write_npz(file: Path, classes: int, train: int = 48, test: int = 20) -> Path:
    rng = np.random.default_rng(0)
    arrays = {f"x_{n}": rng.integers(0, 256, (k, 16, 16, 3), np.uint8) for n, k in (("train", train), ("test", test))}
    labels = {f"y_{n}": np.arange(k) % classes for n, k in (("train", train), ("test", test))}
    np.savez(file, **arrays, **labels)  # type: ignore[arg-type]
    return file


def table_of(*entries: MethodEntry, **changes: Any) -> Table:
    """A classification table of small networks; `changes` are fields of its only pair."""
    mini = Networks(teacher="resnet14", student="resnet8")
    pair = Pair(teacher="resnet56", student="resnet20", mini=mini, **changes)
    return cifar_table("none", *entries, pairs=(pair,))


class Log(list[str]):
    @property
    def text(self) -> str:
        return "\n".join(self)


@pytest.fixture
def logged() -> Log:
    return Log()


@pytest.fixture
def request_(tmp_path: Path, npz: Path) -> RunRequest:
    return RunRequest(
        data=npz,
        scale="mini",
        changes=dict(SMALL),
        devices=("cpu",),
        results=tmp_path / "runs",
        data_root=tmp_path / "data",
    )


@pytest.fixture
def plans(request_: RunRequest, logged: Log, monkeypatch: pytest.MonkeyPatch) -> Plans:
    """plans(table, ..., field=value) makes and explains the plans of a request with those fields changed."""
    monkeypatch.setattr(devices, "cores", lambda: 4)
    monkeypatch.setattr("kdbench.launch.site.cores", lambda: 4)

    def plan(*tables: Table, **changes: Any) -> list[FinalPlan]:
        made = make_plans(tables, replace(request_, **changes), logged.append)
        for one in made:
            explain(one, logged.append)
        return made

    return plan


def test_an_array_file_picks_the_tables_of_small_images_and_says_which_it_left(plans: Plans, logged: Log) -> None:
    tables = [load_table(name) for name in ("akd/coco", "crd/cifar100", "torchdistill/imagenet")]
    (found,) = plans(*tables, scale=None, changes=SMALL, methods=parse_methods("kd"))
    assert {run.task for run in found.plan.runs} == {"classification"}
    assert {run.recipe.name for run in found.plan.runs} == {"cifar_240"}
    assert {run.data.name for run in found.plan.runs} == {"mine"}
    assert {run.data.classes for run in found.plan.runs} == {4}
    assert "left out" in logged.text and "akd/coco, torchdistill/imagenet" in logged.text
    assert "scale full, because --data names a data set" in logged.text


def test_a_coco_folder_picks_detection_tables(plans: Plans, digits_path: Path, logged: Log) -> None:
    (found,) = plans(fixed_table("dist/coco"), fixed_table("dist/cifar100"), data=digits_path)
    assert {run.task for run in found.plan.runs} == {"detection"}
    assert "dist/cifar100" in logged.text


def test_an_image_folder_picks_tables_of_image_files(tmp_path: Path) -> None:
    tables = [load_table(name) for name in ("crd/cifar100", "torchdistill/imagenet")]
    found, reading = planning._tables_for(tables, tmp_path, "full", lambda _: None)
    assert [table.name for table in found] == ["torchdistill/imagenet"] and reading == {}


@pytest.mark.parametrize(("names", "scale"), [(("crd/cifar100",), "full"), (("crd/cifar100", "dkd/imagenet"), "mini")])
def test_tables_of_small_images_read_an_image_folder_as_such(
    names: tuple[str, ...], scale: Scale, tmp_path: Path
) -> None:
    tables = [load_table(name) for name in names]
    found, reading = planning._tables_for(tables, tmp_path, scale, lambda _: None)
    assert tuple(table.name for table in found) == names and reading == {"pixels": 32}


def test_small_networks_are_planned_on_an_image_folder(plans: Plans, tmp_path: Path, logged: Log) -> None:
    for split, count in (("train", 8), ("val", 2)):
        for shade, name in ((60, "cat"), (180, "dog")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (50, 40), (shade, i, 0)).save(tmp_path / "photos" / split / name / f"{i}.jpg")
    (final,) = plans(table_of(MethodEntry(method="kd")), data=tmp_path / "photos")
    assert {run.data.name for run in final.plan.runs} == {"photos"}
    assert final.settings.data_options == {"pixels": 32} and final.memory.stored == (32, 32)
    assert "resized to 32x32 pixels" in logged.text


def test_data_that_no_named_table_is_for_is_one_error(plans: Plans, digits_path: Path) -> None:
    with pytest.raises(SpecError, match=r"looks like a COCO folder, which none of these tables .*\(test/cifar100\)"):
        plans(table_of(), data=digits_path)


@pytest.mark.parametrize("missing", ["nowhere", "nowhere.npz"])
def test_data_that_is_not_there_is_one_error(missing: str, plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"--data .*{missing} does not exist; give"):
        plans(table_of(), fixed_table("dist/coco"), data=tmp_path / missing)


def test_a_file_that_is_no_data_set_is_one_error(plans: Plans, tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    file.write_bytes(b"PK")
    with pytest.raises(DataError, match="mine.npz: is not a readable .npz file"):
        plans(table_of(), data=file)


def test_tables_of_two_data_sets_are_two_plans_and_those_of_one_share_theirs(plans: Plans, logged: Log) -> None:
    first, second = table_of(MethodEntry(method="kd")), table_of(MethodEntry(method="dist"))
    second = second.model_copy(update={"name": "dist/cifar100"})
    other = second.model_copy(
        update={"name": "other", "dataset": second.dataset.model_copy(update={"full": "imagenet"})}
    )
    one, two = plans(first, second, other)
    assert sorted(run.method for run in one.plan.runs) == ["dist", "kd", "none", "none"]
    assert sorted(run.method for run in two.plan.runs) == ["dist", "none", "none"]
    assert {run.id for run in two.plan.runs} < {run.id for run in one.plan.runs}  # at mini both are the same data
    assert logged.text.count("runs in") == 2


def test_jobs_fill_the_cores_at_mini_scale_alone(plans: Plans) -> None:
    table = table_of(MethodEntry(method="kd"))
    (mini,) = plans(table)
    assert (mini.slots, mini.settings.workers) == (("cpu",) * 4, 0)
    (full,) = plans(table, scale="full")
    assert full.slots == ("cpu",) and full.settings.workers == 4
    (shared,) = plans(table, scale="full", jobs=2)
    assert shared.slots == ("cpu",) * 2 and shared.settings.workers == 2
    (own,) = plans(table, jobs=2, devices=("cpu", "cpu"), workers=3)
    assert (own.slots, own.settings.workers) == (("cpu",) * 4, 3)


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ({"resolution": 5}, "resolution=5: must divide the side"),
        ({"fraction": 1.5}, "fraction=1.5: must be the share"),
        ({"fractoin": 0.5}, "unknown data option: 'fractoin'. Did you mean 'fraction'"),
    ],
)
def test_a_variant_that_cannot_be_made_is_refused_before_any_work(
    variant: dict[str, Any], words: str, plans: Plans, request_: RunRequest
) -> None:
    with pytest.raises(DataError, match=words):
        plans(table_of(MethodEntry(method="kd"), mini_data=variant))
    assert not request_.results.exists()


def test_a_variant_with_fewer_images_than_a_batch_is_refused_before_any_work(plans: Plans) -> None:
    with pytest.raises(SpecError, match=r"batch_size 16 is above the 12 training images .*lower it with --set"):
        plans(table_of(mini_data={"fraction": 0.25}), changes={"batch_size": 16, "teacher.batch_size": 8})


@pytest.mark.parametrize("owner", ["", "teacher."])
def test_tf32_on_a_processor_is_refused_before_any_work(owner: str, plans: Plans, request_: RunRequest) -> None:
    with pytest.raises(SpecError, match=f"a processor does not have; train with --set {owner}precision=ieee"):
        plans(table_of(MethodEntry(method="kd")), changes={f"{owner}precision": "tf32"})
    assert not request_.results.exists()


def test_results_that_are_no_folder_are_refused_before_any_work(plans: Plans, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file: is no folder of runs"):
        plans(table_of(), results=tmp_path / "file")


def test_chosen_methods_of_which_none_can_run_are_refused_with_the_reason(plans: Plans) -> None:
    views = MethodEntry(method="kd", label="kd, two views", mini_skip="too long")
    table = table_of(views, MethodEntry(method="dist"))
    with pytest.raises(SpecError, match=r"^no chosen method can run: .*kd, two views.*: too long$"):
        plans(table, methods=parse_methods("kd, two views"))
    assert plans(table, methods=parse_methods("kd, two views,dist"))
    assert plans(table, methods=parse_methods("none"))


def test_views_of_data_that_is_not_here_are_refused_where_images_are_files(plans: Plans) -> None:
    absent: dict[str, Any] = {"data": None, "scale": "full", "changes": {}, "explain": True}
    with pytest.raises(SpecError, match="mlkd reads further views of each image .*; choose another method"):
        plans(load_table("torchdistill/imagenet"), methods=parse_methods("mlkd"), **absent)
    assert plans(table_of(), methods=parse_methods("mlkd"), **absent)


def test_a_recipe_that_does_not_fit_the_data_is_refused_before_any_work(plans: Plans) -> None:
    with pytest.raises(SpecError, match=r"image.kind resized_crop does not fit .*mine.npz"):
        plans(table_of(base_recipe="imagenet_torchdistill"), scale="full")


def test_more_negatives_than_samples_are_refused_before_any_work(plans: Plans) -> None:
    crd = MethodEntry(method="crd", options={"negatives": 49})
    with pytest.raises(MethodError, match="negatives is 49 and the training set has 48 samples; set negatives to at m"):
        plans(table_of(crd))


def test_negatives_are_counted_against_the_samples_that_a_variant_keeps(plans: Plans) -> None:
    """Of 12 images a class a share of 0.2 keeps 2: 8 samples, where 0.2 of all are more than 9."""
    crd = MethodEntry(method="crd", options={"negatives": 9})
    assert plans(table_of(crd))
    with pytest.raises(MethodError, match="negatives is 9 and the training set has 8 samples"):
        plans(table_of(crd, mini_data={"fraction": 0.2}))


def test_a_method_for_more_classes_is_skipped_and_the_others_run(plans: Plans, tmp_path: Path) -> None:
    two = write_npz(tmp_path / "two.npz", classes=2)
    (final,) = plans(table_of(MethodEntry(method="kd"), MethodEntry(method="dkd")), data=two)
    assert {run.method for run in final.plan.runs} == {"none", "kd"}
    assert [skipped.reason for skipped in final.plan.skipped] == ["dkd needs at least 3 classes; the data has 2"]


def test_memory_for_every_sample_is_logged_before_it_is_taken(plans: Plans, logged: Log) -> None:
    entries = (
        MethodEntry(method="crd", options={"negatives": 8, "dim": 4096}),
        MethodEntry(method="mag+crd", options={"negatives": 8, "dim": 1366}),
        MethodEntry(method="kd"),
    )
    plans(table_of(*entries))
    lines = [line for line in logged if "memory" in line]
    # 48 samples x 2 banks x 4096 x 4 bytes = 1.5 MiB
    assert lines == [
        "  memory: crd keeps 2 MiB of past samples for each student",
        "  memory: mag+crd keeps 1 MiB of past samples for each student",
    ]


def test_a_cohort_is_split_where_memory_is_short_and_the_plan_says_why(
    plans: Plans, logged: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(*(MethodEntry(method=name) for name in ("kd", "dist", "ekd")))
    (whole,) = plans(table, memory=64.0, explain=True)
    assert [len(job.runs) for job in whole.schedule.jobs if job.cohort == 1] == [4]
    assert "5 runs in 2 jobs" in logged.text
    assert re.search(r"stage 2: resnet8 seed 0, 4 to do: dist, ekd, kd, resnet8; \d\.\d GiB; about \d+", logged.text)
    assert re.search(r"from: a roofline of .* \(2 jobs\), right within a factor of about 3", logged.text)
    assert all(job.memory and job.seconds for job in whole.schedule.jobs)  # for engines
    monkeypatch.setattr(memory, "LITTLE", 1.0)  # these networks are so small that a split would save next to nothing
    (short,) = plans(table, memory=0.9, explain=True)
    assert short.plan == whole.plan  # what is run under which name, and with how many threads, is as before
    assert len([job for job in short.schedule.jobs if job.cohort == 1]) > 1
    assert re.search(r"split into \d, because together they take", logged.text)
    assert re.search(r"one run takes \d\.\d GiB and a job has 0.9: it is still attempted", logged.text)


def test_jobs_side_by_side_share_the_memory_of_a_device(plans: Plans) -> None:
    def room(*entries: MethodEntry, **more: Any) -> float:
        (found,) = plans(table_of(*entries), memory=8.0, **more)
        return found.memory.room / 2**30

    assert room(jobs=4) == 8.0  # one cohort is never beside another
    assert room(MethodEntry(method="kd"), cohort=1, jobs=4) == 4.0  # two are
    assert room(MethodEntry(method="kd"), cohort=1, jobs=1) == 8.0


def test_a_plan_says_why_a_run_is_alone(plans: Plans, logged: Log) -> None:
    plans(table_of(MethodEntry(method="kd")), seeds=(0, 1), methods=parse_methods("none"), scale="mini")
    assert [line.partition("alone: ")[2] for line in logged if "alone" in line] == ["no other run has its seed"] * 2
    logged.clear()
    pairs = tuple(
        Pair(teacher=teacher, student="resnet8", mini=Networks(teacher=teacher, student="resnet8"))
        for teacher in ("resnet14", "resnet20")
    )
    plans(cifar_table("none", "kd", pairs=pairs))
    students = [line for line in logged if "stage 2" in line and "alone: " in line]
    assert [line.partition("alone: ")[2] for line in students] == ["no other run has its teacher"]
    logged.clear()
    plans(table_of(MethodEntry(method="kd")), cohort=1)
    lines = [line for line in logged if "stage 2" in line]
    assert [line.partition("alone: ")[2] for line in lines] == ["--cohort is 1"] * 2


def test_a_teacher_file_has_to_fit_the_networks_and_classes(plans: Plans, tmp_path: Path) -> None:
    file, table = tmp_path / "teacher.pt", table_of(MethodEntry(method="kd"))

    def write(name: str, count: int, **more: Any) -> tuple[TeacherFile, ...]:
        checkpoints.write(file, {"state": networks.build(name, count).state_dict()} | more)
        return parse_teachers(file)

    with pytest.raises(CheckpointError, match=r"does not fit: fc\.weight .*another number of classes"):
        plans(table, teacher=write("resnet14", 5))
    with pytest.raises(CheckpointError, match=r"trained for 2 classes \(cat, dog"):
        plans(table, teacher=write("resnet14", 2, classes=["cat", "dog"]))
    with pytest.raises(CheckpointError, match="is another network's"):
        plans(table, teacher=write("resnet20", 4))
    (found,) = plans(table, teacher=write("resnet14", 4))
    assert [run.teacher_file is None for run in found.plan.runs] == [run.method == "none" for run in found.plan.runs]
    assert len(found.plan.stages) == 1


TABLE = """
paper: example
title: Three methods on a small set
citation: none
task: classification
dataset: {full: cifar100, mini: digits}
data_size: {train_images: 50000, val_images: 10000, classes: 100}
metric: top1
recipe: {full: cifar_240, mini: cifar_mini}
teacher_recipe: {full: cifar_240, mini: cifar_mini_teacher}
methods:
  - {method: none}
  - {method: kd}
  - {method: ekd}
pairs:
  - {teacher: resnet56, student: resnet20, mini: {teacher: resnet14, student: resnet8}}
"""
CHANGES = ("batch_size=16", "epochs=1", "warmup_steps=1", "teacher.batch_size=16", "teacher.epochs=1")


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_classification_table_runs_from_the_command_line(npz: Path, tmp_path: Path) -> None:
    (tmp_path / "table.yaml").write_text(TABLE)
    environment = {"KDBENCH_DATA": str(tmp_path / "data"), "COLUMNS": "150"} | jobs_environment()

    def kdbench(*words: str) -> str:
        done = command(*words, folder=tmp_path, environment=environment)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    settings = [word for change in CHANGES for word in ("--set", change)]
    told = kdbench("run", "table.yaml", "--scale", "mini", "--data", str(npz), *settings)
    assert "4 of 4 runs done" in told
    rows = [json.loads(file.read_text()) for file in tmp_path.glob("results/runs/*/row.json")]
    found = {(row["run"]["student"], row["run"]["method"]): row for row in rows}
    assert set(found) == {("resnet14", "none"), ("resnet8", "none"), ("resnet8", "kd"), ("resnet8", "ekd")}
    assert {(student, row["cost"]["cohort"]) for (student, _), row in found.items()} == {
        ("resnet14", 1),
        ("resnet8", 3),
    }
    assert found["resnet8", "kd"]["teacher"]["recorded"] == found["resnet14", "none"]["metrics"]["last"]["top1"]
    assert found["resnet8", "ekd"]["teacher"]["recorded"] is None
    shown = kdbench("table", "table.yaml", "--scale", "mini")
    assert all(name in shown for name in ("none", "kd", "ekd"))


def test_teachers_that_would_stay_equal_are_refused_before_any_work(
    plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.networks.check_init", lambda *_: None)
    table = table_of(MethodEntry(method="ekd", options={"teachers": 2}))
    with pytest.raises(SpecError, match="ekd: 2 teachers would all start"):
        plans(table, scale="mini", changes={"init": "published"})


def test_a_folder_of_data_that_does_not_exist_is_named_as_such(tmp_path: Path, logged: Log) -> None:
    request = RunRequest(data_root=tmp_path / "dtaa")
    assert choose_scale("cifar100", request, logged.append) == "mini"
    assert f"cifar100 is not in {tmp_path / 'dtaa'}, which does not exist; --data PATH names a data set" in logged.text
    request.data_root.mkdir()
    assert choose_scale("cifar100", request, logged.append) == "mini"
    assert "exist" not in logged[-1]
