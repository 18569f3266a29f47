"""What a plan takes where nothing was trained yet: rooflines, calibrations, schedules, and data that is not on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench import methods
from kdbench.datasets import DataError
from kdbench.engines.base import PlannedJob, Resources
from kdbench.errors import SpecError, StoreError
from kdbench.launch.device_facts import CPU, device_named, recognized
from kdbench.launch.estimates import Estimator, Target, key_of
from kdbench.launch.explain import FEW, explain
from kdbench.launch.memory import Memory
from kdbench.launch.planning import FinalPlan, make_plans
from kdbench.launch.roofline import BACKWARD, OPTIMIZER, step_seconds, with_loading, work
from kdbench.launch.totals import wall_clock
from kdbench.launch.tracing import loss_of, traced
from kdbench.records.calibration import Calibrated, add_calibration, read_calibration
from kdbench.spec.recipe import load_recipe
from kdbench.spec.request import RunRequest
from kdbench.spec.run import Data, Run
from kdbench.spec.table import ByScale, MethodEntry, Networks, Pair, Table
from kdbench.train import calibration
from kdbench.train.calibration import Timing, synthetic_task, time_steps
from kdbench.train.job import Job
from tests.helpers.plans import Choice, runs_of
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table, fixed_table

CIFAR = Memory("cuda", 1e12, stored=(32, 32))
H100, T4 = device_named("h100"), device_named("t4")


def cifar_run(method: str = "kd", **changes: Any) -> Run:
    table = cifar_table("none", "kd")
    entry = next(entry for entry in table.methods if entry.method == method)
    return make_row(table, table.pairs[0], entry, "full").run.model_copy(update=changes)


def job(*runs: Run, **fields: Any) -> PlannedJob:
    return PlannedJob(runs, 0, 1, **fields)


def measured(seconds: float, machine: str = "NVIDIA H100 80GB HBM3 x8", synthetic: bool = False) -> Calibrated:
    about = {"commit": "0123456789ab", "libraries": {"torch": "2"}, "finished": "2026-01-01T00:00:00+00:00"}
    return Calibrated(what="a job", machine=machine, step_seconds=seconds, steps=50, synthetic=synthetic, **about)


def test_small_networks_wait_for_launches_and_large_ones_for_the_gpu() -> None:
    run = cifar_run()
    launches = work([run], CIFAR).kernels
    assert step_seconds([run], CIFAR, H100, 1) == pytest.approx(launches * H100.launch)
    table = fixed_table("dist/coco")
    large = make_row(table, table.pairs[0], table.entries(table.pairs[0])[0], "full").run
    memory = Memory("cuda", 1e12)
    assert step_seconds([large], memory, H100, 1) > work([large], memory).kernels * H100.launch
    assert step_seconds([large], memory, T4, 1) > 5 * step_seconds([large], memory, H100, 1)


def test_cores_share_the_work_of_a_step_and_not_its_launches() -> None:
    run = cifar_run()
    one, four = (step_seconds([run], CIFAR, CPU, threads) for threads in (1, 4))
    assert 2 * four < one < 4 * four


def test_a_method_adds_its_own_operations() -> None:
    none, kd = cifar_run("none"), cifar_run()
    frozen = kd.teacher
    assert frozen is not None
    without = work([kd.model_copy(update={"method": "none", "teacher": frozen})], CIFAR)
    assert work([none], CIFAR).kernels < without.kernels
    assert work([kd], CIFAR).kernels > work([none], CIFAR).kernels


@pytest.mark.parametrize(("method", "views", "forwards"), [("strong_view+kd", 1, 2), ("sskd", 3, 1)])
def test_views_are_further_passes_and_a_joint_one_is_launched_once(method: str, views: int, forwards: int) -> None:
    kd, alone = cifar_run(), cifar_run("none")
    run = kd.model_copy(update={"method": method, "options": methods.resolve(method, {})})
    assert work([run], CIFAR).flops == pytest.approx((1 + views) * work([kd], CIFAR).flops)
    assert work([run, kd], CIFAR).flops == pytest.approx(work([run], CIFAR).flops + work([alone], CIFAR).flops)
    shapes = CIFAR.shapes(run)
    student, teacher = (traced(name, shapes).kernels for name in (run.student, run.teacher_network or ""))
    networks = BACKWARD * forwards * student + (1 + views) * teacher
    assert work([run], CIFAR).kernels == networks + BACKWARD * loss_of(run, shapes).kernels + OPTIMIZER


def test_files_are_loaded_beside_the_step_by_workers_and_before_it_without() -> None:
    run = cifar_run()
    assert with_loading(0.1, run, 8) == with_loading(0.1, run, 0) == 0.1  # arrays
    files = cifar_run(recipe=load_recipe("imagenet_b1"))
    loading = with_loading(0.0, files, 1)
    assert loading > 1
    assert with_loading(0.1, files, 0) == pytest.approx(0.1 + loading)
    assert with_loading(0.1, files, 4) == pytest.approx(loading / 4)
    assert with_loading(10 * loading, files, 4) == 10 * loading


def test_rows_come_before_a_calibration_and_that_before_a_roofline() -> None:
    table = cifar_table("none", "kd")
    row = make_row(table, table.pairs[0], table.methods[1], "full")
    assert row.cost is not None
    mine = job(row.run.model_copy(update={"seed": 5}))
    here = Target(CPU, row.environment.machine)
    timed = {key_of(mine.runs, here.machine, 1): measured(0.5, here.machine)}
    estimators = [
        Estimator(here, rows, calibrated, CIFAR, 0, roofline)
        for rows, calibrated, roofline in (([row], timed, True), ([], timed, True), ([], {}, True), ([], {}, False))
    ]
    found = [estimator.estimate(mine) for estimator in estimators]
    assert [each and each.source for each in found] == ["rows", "calibration", "roofline", None]
    steps = 240 * (row.run.data.train_images // 64)
    assert found[1] is not None and 0.5 * steps < found[1].seconds < 0.6 * steps  # with evaluation


def test_a_calibration_of_another_machine_counts_where_its_gpu_is_asked_for() -> None:
    mine = job(cifar_run())
    machine = "NVIDIA H100 80GB HBM3 x8"
    calibrated = {key_of(mine.runs, machine, 1): measured(0.01)}
    sources = [
        found and found.source
        for target in (Target(H100), Target(T4), Target(H100, "NVIDIA H100 PCIe x1"))
        for found in [Estimator(target, [], calibrated, CIFAR, 0, True).estimate(mine)]
    ]
    assert sources == ["calibration", "roofline", "roofline"]


def test_the_time_of_a_step_depends_on_precision_and_not_on_seed_rate_or_epochs() -> None:
    run = cifar_run()
    recipe = run.recipe
    key = key_of([run], "a machine", 1)
    same = {"lr": 0.5, "epochs": 3, "milestones": ()}
    assert key_of([run.model_copy(update={"seed": 9, "recipe": recipe.model_copy(update=same)})], "a machine", 1) == key
    for field, value in (("precision", "bfloat16"), ("batch_size", 32), ("accumulate", 2)):
        changed = run.model_copy(update={"recipe": recipe.model_copy(update={field: value})})
        assert key_of([changed], "a machine", 1) != key
    assert (
        len({key, key_of([run], "a machine", 2), key_of([run], "another", 1), key_of([run, run], "a machine", 1)}) == 4
    )


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("NVIDIA A100-SXM4-80GB x8", "a100"),
        ("NVIDIA H100 80GB HBM3 x8", "h100"),
        ("NVIDIA GeForce RTX 4090 x1", "rtx4090"),
        ("Tesla T4 x1", "t4"),
        ("Tesla V100-SXM2-16GB x4", "v100"),
        ("gpu:h200:1 gpu", "h200"),
        ("NVIDIA L40S x2", None),
        ("NVIDIA RTX 6000 x2", None),
    ],
)
def test_machines_and_options_name_their_gpu(words: str, name: str | None) -> None:
    found = recognized(words)
    assert (found and found.name) == name


def test_students_wait_for_their_teacher_in_the_schedule() -> None:
    teacher = cifar_run().teacher
    assert teacher is not None
    jobs = [job(cifar_run("none"), seconds=5.0), job(teacher, seconds=10.0)]
    jobs += [job(cifar_run(seed=seed), seconds=4.0) for seed in range(3)]
    jobs = [
        replace(each, runs=tuple(r.model_copy(update={"teacher": teacher}) for r in each.runs)) if i > 1 else each
        for i, each in enumerate(jobs)
    ]
    assert wall_clock(jobs, 1) == 27
    assert wall_clock(jobs, 2) == 18  # the teacher first, beside it the student alone, then two students and one more
    assert wall_clock(jobs, 8) == 14
    assert wall_clock([], 8) == 0


def test_a_calibration_is_kept_and_another_file_in_its_place_is_one_error(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) == {}
    add_calibration(tmp_path, {"a": measured(1.0), "b": measured(2.0)})
    add_calibration(tmp_path, {"a": measured(3.0)})
    assert {key: each.step_seconds for key, each in read_calibration(tmp_path).items()} == {"a": 3.0, "b": 2.0}
    (tmp_path / "calibration.json").write_text('{"steps": 1}')
    with pytest.raises(StoreError, match="calibration.json: is no calibration .*delete it"):
        read_calibration(tmp_path)


def test_jobs_that_differ_in_estimates_alone_are_submitted_together() -> None:
    one, other = Resources("cpu", 1, memory=10, seconds=1.0), Resources("cpu", 1, memory=20, seconds=2.0)
    assert one == other
    assert len({one, other, Resources("cpu", 2), Resources("cpu", 1, world_size=2)}) == 3


def table_of(task: str) -> Table:
    """A table of a task with the student alone and dist."""
    if task == "detection":
        return fixed_table("dist/coco")
    if task == "classification":
        return cifar_table("none", "dist")
    networks = Networks(teacher="segmenter_mini_teacher", student="segmenter_mini_student")
    recipes = {
        "recipe": ByScale(full="cityscapes_dist", mini="cityscapes_mini"),
        "teacher_recipe": ByScale(full="cityscapes_dist", mini="cityscapes_mini_teacher"),
    }
    pair = Pair(teacher="deeplabv3_r101", student="deeplabv3_r18", mini=networks)
    return cifar_table("none", "dist", pairs=(pair,), task=task, metric="miou", **recipes)


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_steps_are_timed_on_made_up_batches(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TOO_LONG", 0.0)
    monkeypatch.chdir(tmp_path)
    table = table_of(task)
    pair = next(pair for pair in table.pairs if pair.mini)
    data = Data(name="none", fingerprint="none", train_images=64, val_images=8, classes=5)
    choice = Choice("mini", data, changes={"batch_size": 2, "teacher.batch_size": 2})
    entries = [entry for entry in table.entries(pair) if entry.method in ("none", "dist")]
    runs = tuple(runs_of(table, pair, entry, choice)[0] for entry in entries)
    timing = Timing(
        job=Job(runs=runs, data_root=tmp_path / "data", results=tmp_path / "runs"),
        threads=1,
        synthetic=True,
        stored=(16, 16),
    )
    seconds, steps = time_steps(timing)
    assert seconds > 0 and steps == 3
    assert list(tmp_path.iterdir()) == []


def test_made_up_batches_have_the_recipes_shapes_and_all_classes() -> None:
    run = cifar_run()
    batch = next(synthetic_task(run, (32, 32)).batches(0, calibration.torch.device("cpu")))
    assert batch.inputs.shape == (64, 3, 32, 32) and len(set(batch.targets.tolist())) > 1


@pytest.fixture
def elsewhere(tmp_path: Path) -> RunRequest:
    """A plan in full scale where no data is on disk."""
    return RunRequest(
        scale="full", devices=("cpu",), results=tmp_path / "runs", data_root=tmp_path / "data", explain=True
    )


def lines_of(table: Table, request: RunRequest) -> tuple[FinalPlan, list[str]]:
    lines: list[str] = []
    (final,) = make_plans([table], request, lines.append)
    explain(final, lines.append)
    return final, lines


def test_a_plan_needs_no_data_and_training_does(elsewhere: RunRequest) -> None:
    table = cifar_table("none", "kd").model_copy(
        update={"dataset": fixed_table("dist/coco").dataset.model_copy(update={"full": "imagenet"})}
    )
    final, lines = lines_of(table, replace(elsewhere, on="h100", price=2.5))
    text = "\n".join(lines)
    assert not final.on_disk and "imagenet is not in" in text and "sizes as published" in text
    assert "on 1 GPU" in text and "on 8 GPUs" in text and "at 2.5 an hour" in text
    assert "from: a roofline of the h100 (2 jobs)" in text
    assert "disk: about" in text
    assert not elsewhere.results.exists()
    with pytest.raises(DataError):
        make_plans([table], replace(elsewhere, explain=False), lines.append)


def test_many_cohorts_are_a_line_a_pair(elsewhere: RunRequest) -> None:
    networks = Networks(teacher="resnet14", student="resnet8")
    pairs = (
        Pair(teacher="resnet56", student="resnet20", networks=networks),
        Pair(teacher="resnet32", student="resnet8", networks=Networks(teacher="resnet20", student="resnet8")),
    )
    table = cifar_table("none", "kd", pairs=pairs)
    final, lines = lines_of(table, replace(elsewhere, seeds=tuple(range(10)), on="a100", cohort=1))
    assert len(final.schedule.cohorts) > FEW
    stages = [line for line in lines if line.startswith("  stage")]
    assert [line.split(";")[0] for line in [*stages[:2], *sorted(stages[2:])]] == [
        "  stage 1: teachers: 2 runs in 2 jobs",
        "  stage 2: students alone: 10 runs in 10 jobs",
        "  stage 2: resnet14 -> resnet8: 10 runs in 10 jobs",
        "  stage 2: resnet20 -> resnet8: 10 runs in 10 jobs",
    ]
    assert len(lines) < 15


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"on": "h1000"}, "unknown GPU in --on: 'h1000'. Did you mean 'h100'"),
        ({"price": 1.0, "explain": False}, "--price is for a plan that is printed; give --explain"),
        ({"on": "h100", "explain": False}, "--on is for a plan that is printed"),
        ({"on": "h100", "calibrate": True}, "--calibrate times this machine, and --on names another"),
        ({"engine": "slurm", "calibrate": True}, "leave --engine slurm out"),
    ],
)
def test_options_that_contradict_each_other_are_one_error(
    changes: dict[str, Any], words: str, elsewhere: RunRequest
) -> None:
    with pytest.raises(SpecError, match=words.replace(".", r"\.")):
        make_plans([cifar_table("none")], replace(elsewhere, **changes), lambda _: None)


@pytest.mark.integration
def test_calibrate_times_each_kind_of_job_once_and_the_next_plan_uses_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"x_{n}": rng.integers(0, 256, (k, 16, 16, 3), np.uint8) for n, k in (("train", 16), ("test", 8))}
    np.savez(tmp_path / "mine.npz", **arrays, y_train=np.arange(16) % 4, y_test=np.arange(8) % 4)  # type: ignore[arg-type]
    request = RunRequest(
        data=tmp_path / "mine.npz",
        scale="mini",
        seeds=(0, 1),
        changes={"batch_size": 2, "teacher.batch_size": 2},
        devices=("cpu",),
        jobs=1,
        results=tmp_path / "runs",
        data_root=tmp_path / "data",
    )
    pair = Pair(teacher="resnet56", student="resnet20", mini=Networks(teacher="resnet14", student="resnet8"))
    table = cifar_table("none", MethodEntry(method="kd"), pairs=(pair,))
    _, lines = lines_of(table, replace(request, calibrate=True))
    text = "\n".join(lines)
    assert "calibration: 2 kinds of jobs, 20 to 50 steps each, on the data" in text
    assert "timed 2 of 2" in text and "from: a calibration of" in text
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["calibration.json"]
    kept = json.loads((tmp_path / "runs" / "calibration.json").read_text())
    assert all(20 <= each["steps"] <= 50 and each["commit"] for each in kept["steps"].values())
    final, lines = lines_of(table, replace(request, explain=True))
    assert {each and each.source for each in final.estimates} == {"calibration"}
    assert all(each.seconds for each in final.schedule.jobs)


def test_a_kind_of_job_that_cannot_be_timed_leaves_the_others(tmp_path: Path) -> None:
    from kdbench.launch.calibrate import calibrate
    from kdbench.train.job import JobSettings

    broken = cifar_run("none").model_copy(update={"student": "resnet9999"})
    good = cifar_run("none", recipe=load_recipe("cifar_mini", {"batch_size": 2}), student="resnet8")
    settings = JobSettings(data_root=tmp_path / "data", results=tmp_path / "runs")
    lines: list[str] = []
    calibrate([job(broken), job(good)], settings, "cpu", (8, 8), False, lines.append)
    text = "\n".join(lines)
    assert "resnet9999 none (ieee): not timed: " in text and "on made-up batches" in text
    assert "timed 1 of 2" in text
    assert [each.synthetic for each in read_calibration(tmp_path / "runs").values()] == [True]
