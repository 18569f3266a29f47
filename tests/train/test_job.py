"""One job from spec to rows: every detector family end to end, resuming, cohorts, and what goes wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.datasets import DataError, open_coco
from kdbench.errors import StoreError
from kdbench.records import checkpoint as checkpoints
from kdbench.records.store import Store, read_rows
from kdbench.spec.recipe import load_recipe
from kdbench.train import job as run
from kdbench.train import loop as training
from kdbench.train.events import Event, from_line, to_line
from kdbench.train.job import WITH_PARENT, Job, execute
from tests.conftest import SHORT
from tests.helpers.tensors import equal

METHODS = {
    "fcos": ["none", "maskd", "akd+cwd"],
    "retinanet": ["none", "dist", "dist+mimic", "akd+masked_generative", "akd+maskd+box_l1"],
    "faster_rcnn": ["none", "dist+mimic", "mimic+box_l1"],
}
QUICK = {"maskd": {"mask_steps": 2}, "akd+maskd+box_l1": {"akd+maskd": {"mask_steps": 2}}}


def quiet(event: Event) -> None:
    assert from_line(to_line(event)) == event


@pytest.mark.parametrize("family", METHODS)
def test_two_epochs_of_every_family_from_data_to_row(family: str, make_run: Any, make_job: Any) -> None:
    teacher = make_run("teacher", family)
    (taught,) = execute(make_job(teacher), quiet)
    assert taught.status == "done", taught.reason
    runs = [make_run(method, family, **QUICK.get(method, {})) for method in METHODS[family]]
    rows = execute(make_job(*runs), quiet)
    assert [row.status for row in rows] == ["done"] * len(runs), [row.reason for row in rows]
    for row in rows:
        assert row.metrics is not None and row.cost is not None and row.student is not None
        assert [epoch.epoch for epoch in row.history] == [1, 2]
        assert row.history[-1].metrics == row.metrics.last
        assert 0 <= row.metrics.last["ap"] <= 100
        assert row.metrics.best["ap"] == max(epoch.metrics["ap"] for epoch in row.history)
        assert row.cost.params > 100_000 and row.cost.flops > 1e6 and row.cost.images_per_second > 0
        assert row.cost.cohort == len(runs)
        assert (row.teacher is None) == (row.run.method == "none")
        if row.teacher:
            assert row.teacher.measured == pytest.approx(row.teacher.recorded)
            assert row.cost.teacher_seconds > 0
        assert sum(row.history[0].losses.values()) > 0
    found, invalid = read_rows([make_job(*runs).results])
    assert {row.id for row in found} == {row.id for row in [taught, *rows]}
    assert not invalid


def student_of(results: Path, run_id: str) -> dict[str, torch.Tensor]:
    return checkpoints.read(results / run_id / "student.pt")["state"]


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.integration)])
def test_students_of_a_cohort_end_bitwise_equal_to_solo_runs(
    precision: str, make_run: Any, make_job: Any, tmp_path: Path
) -> None:
    recipe = load_recipe("coco_mini", SHORT | {"epochs": 1, "precision": precision})
    family = "faster_rcnn"  # its proposals are sampled, so it is the one that draws most
    runs = [make_run(method, family, recipe=recipe) for method in ("none", "akd+cwd", "dist")]
    together, alone = tmp_path / "together", tmp_path / "alone"
    execute(make_job(make_run("teacher", family, recipe=recipe), results=together), quiet)
    shutil.copytree(together, alone)
    execute(make_job(*runs, results=together), quiet)
    for one in runs:
        execute(make_job(one, results=alone), quiet)
        assert equal(student_of(together, one.id), student_of(alone, one.id)), one.method


class Killed(BaseException):
    """As a signal: nothing in the harness may catch it."""


def test_a_run_killed_within_an_epoch_goes_on_from_there_and_ends_bitwise_the_same(
    make_run: Any, make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "READ_EVERY", 1)
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    execute(make_job(make_run("teacher"), results=whole), quiet)
    shutil.copytree(whole, parts)
    runs = [make_run("maskd", mask_steps=2, custom_mask_warmup=5), make_run("akd+masked_generative")]
    execute(make_job(*runs, results=whole), quiet)

    def kill_at_the_last_step(event: Event) -> None:
        if event.event == "step" and event.step == event.steps:
            raise Killed

    with pytest.raises(Killed):
        execute(make_job(*runs, results=parts), kill_at_the_last_step)
    assert not Store(parts).row_file(runs[0].id).exists()
    events: list[Event] = []
    rows = execute(make_job(*runs, results=parts), events.append)
    steps = Store(whole).row(runs[0].id).history[-1].steps
    assert steps > 2  # in two epochs, so the last is not the only one of its epoch
    places = [(event.epoch, event.step) for event in events if event.event == "resumed"]
    assert places == [(1, steps - 1)] * 2
    for one, row in zip(runs, rows, strict=True):
        assert equal(student_of(whole, one.id), student_of(parts, one.id))
        kept = Store(whole).row(one.id)
        assert kept is not None
        assert [epoch.losses for epoch in kept.history] == [epoch.losses for epoch in row.history]


def test_students_saved_at_different_epochs_meet_again(make_run: Any, make_job: Any, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    execute(make_job(make_run("teacher"), results=whole), quiet)
    shutil.copytree(whole, parts)
    runs = [make_run("mimic"), make_run("cwd")]
    execute(make_job(*runs, results=whole), quiet)

    def kill_between_saves(event: Event) -> None:
        if event.event == "epoch" and event.epoch == 1:
            raise Killed  # the first student is saved, the second is not

    with pytest.raises(Killed):
        execute(make_job(*runs, results=parts), kill_between_saves)
    execute(make_job(*runs, results=parts), quiet)
    assert all(equal(student_of(whole, one.id), student_of(parts, one.id)) for one in runs)


def poison(monkeypatch: pytest.MonkeyPatch, method: str, at_step: int, value: float | Exception) -> None:
    """Make one method return `value` (or raise it) at its `at_step`-th forward."""
    from kdbench import methods

    target = methods.method_class(method)
    forward, calls = target.forward, iter(range(1, 1000))

    def broken(self: Any, *given: Any) -> dict[str, torch.Tensor]:
        terms = forward(self, *given)
        if next(calls) != at_step:
            return terms
        if isinstance(value, Exception):
            raise value
        return {name: term * value for name, term in terms.items()}

    monkeypatch.setattr(target, "forward", broken)


FAILURES = [
    (float("nan"), "diverged", "loss term mimic is nan at step 3"),
    (float("inf"), "diverged", "loss term mimic is inf at step 3"),
    (FloatingPointError("no such boxes"), "diverged", "no such boxes"),
    (MemoryError("no room"), "out-of-memory", "--cohort 1"),
    (RuntimeError("broken kernel"), "failed", "RuntimeError: broken kernel"),
]


def test_a_student_that_fails_ends_with_a_status_and_the_others_end_as_alone(
    make_run: Any, make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("coco_mini", SHORT | {"epochs": 1})
    taught, alone = tmp_path / "taught", tmp_path / "alone"
    execute(make_job(make_run("teacher", recipe=recipe), results=taught), quiet)
    good, bad = make_run("cwd", recipe=recipe), make_run("mimic", recipe=recipe)
    shutil.copytree(taught, alone)
    execute(make_job(good, results=alone), quiet)
    for i, (value, status, words) in enumerate(FAILURES):
        cohort = shutil.copytree(taught, tmp_path / f"cohort {i}")
        with monkeypatch.context() as patch:
            poison(patch, "mimic", 3, value)
            rows = {row.run.method: row for row in execute(make_job(bad, good, results=cohort), quiet)}
        assert rows["mimic"].status == status, words
        assert words in rows["mimic"].reason
        assert rows["mimic"].metrics is None
        assert rows["cwd"].status == "done", words
        assert equal(student_of(cohort, good.id), student_of(alone, good.id)), words


def test_a_loss_that_would_hide_another_is_refused(make_run: Any, make_job: Any, monkeypatch: Any) -> None:
    from kdbench import methods

    teach(make_run, make_job)
    target = methods.method_class("mimic")
    forward = target.forward
    monkeypatch.setattr(target, "forward", lambda *given: {"classification": forward(*given)["mimic"]})
    (row,) = execute(make_job(student_of_that_teacher(make_run)), quiet)
    assert row.status == "failed"
    assert "classification is a loss of the network and of the method" in row.reason


def test_data_that_changed_since_the_plan_is_refused(make_run: Any, make_job: Any) -> None:
    one = make_run("none")
    other = one.model_copy(update={"data": one.data.model_copy(update={"fingerprint": "another"})})
    with pytest.raises(DataError, match="changed since the runs were planned"):
        execute(make_job(other), quiet)


def test_max_steps_ends_a_run_early_and_is_kept_in_its_spec(make_run: Any, make_job: Any) -> None:
    recipe = load_recipe("coco_mini", SHORT | {"max_steps": 1})
    (row,) = execute(make_job(make_run("none", recipe=recipe)), quiet)
    assert row.status == "done"
    assert row.history[-1].steps == 1
    assert row.run.recipe.max_steps == 1


def teach(make_run: Any, make_job: Any, classes: int | None = None) -> Path:
    """A finished teacher; returns its folder."""
    recipe = load_recipe("coco_mini", SHORT | {"max_steps": 1})
    one = make_run("teacher", recipe=recipe)
    job = make_job(one)
    execute(job, quiet)
    return job.results / one.id


def student_of_that_teacher(make_run: Any) -> Any:
    return make_run("mimic", recipe=load_recipe("coco_mini", SHORT | {"max_steps": 1}))


def test_a_teacher_off_its_record_is_refused(make_run: Any, make_job: Any) -> None:
    folder = teach(make_run, make_job)
    row = Store(folder.parent).row(folder.name)
    assert row is not None and row.metrics is not None
    more = {"ap": row.metrics.last["ap"] + 5}
    boasting = {"last": row.metrics.last | more, "best": row.metrics.best | more}
    Store(folder.parent).write(row.model_copy(update={"metrics": row.metrics.model_copy(update=boasting)}))
    refused(make_job(student_of_that_teacher(make_run)), "is on record")


def test_a_teacher_whose_file_changed_is_refused(make_run: Any, make_job: Any) -> None:
    folder = teach(make_run, make_job)
    content = checkpoints.read(folder / "student.pt")
    checkpoints.write(folder / "student.pt", content | {"note": "another file"})
    refused(make_job(student_of_that_teacher(make_run)), "sha256 differs")


def test_a_teacher_that_never_finished_is_refused(make_run: Any, make_job: Any) -> None:
    refused(make_job(student_of_that_teacher(make_run)), "has no finished run")


def test_a_teacher_whose_file_is_gone_is_refused_and_runs_without_a_teacher_go_on(make_run: Any, make_job: Any) -> None:
    (teach(make_run, make_job) / "student.pt").unlink()
    alone = make_run("none", recipe=load_recipe("coco_mini", SHORT | {"max_steps": 1}))
    rows = {row.run.method: row for row in execute(make_job(alone, student_of_that_teacher(make_run)), quiet)}
    assert rows["none"].status == "done"
    assert rows["mimic"].status == "failed"
    assert "is gone; move" in rows["mimic"].reason


def refused(job: Any, words: str) -> None:
    """The job's one run ends as failed before any training."""
    events: list[Event] = []
    (row,) = execute(job, events.append)
    assert row.status == "failed"
    assert words in row.reason
    assert not [event for event in events if event.event == "step"]


def given_teacher(make_run: Any, file: Path) -> Any:
    return student_of_that_teacher(make_run).model_copy(update={"teacher_file": checkpoints.sha256(file)})


def test_a_given_teacher_file_is_used_and_measured(make_run: Any, make_job: Any, tmp_path: Path) -> None:
    file = teach(make_run, make_job) / "student.pt"
    (row,) = execute(make_job(given_teacher(make_run, file), teacher_files={"fcos_mini_teacher": file}), quiet)
    assert row.status == "done" and row.teacher is not None
    assert row.teacher.sha256 == checkpoints.sha256(file)
    assert row.teacher.recorded is None


def test_a_teacher_with_other_classes_is_refused_before_training(make_run: Any, make_job: Any, tmp_path: Path) -> None:
    from kdbench import networks

    file = tmp_path / "other.pt"
    checkpoints.write(file, {"state": networks.build("fcos_mini_teacher", 7).state_dict()})
    refused(
        make_job(given_teacher(make_run, file), teacher_files={"fcos_mini_teacher": file}), "another number of classes"
    )
    checkpoints.write(file, {"classes": ["cat", "dog"], "state": networks.build("fcos_mini_teacher", 2).state_dict()})
    refused(make_job(given_teacher(make_run, file), teacher_files={"fcos_mini_teacher": file}), "trained for 2 classes")
    changed = given_teacher(make_run, file)
    checkpoints.write(file, {"state": networks.build("fcos_mini_teacher", 10).state_dict()})
    refused(make_job(changed, teacher_files={"fcos_mini_teacher": file}), "changed since the runs were planned")


def test_a_full_disk_at_the_row_loses_nothing_that_was_trained(
    make_run: Any, make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_run("none")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", lambda *_: (_ for _ in ()).throw(StoreError("cannot write: disk full")))
        with pytest.raises(StoreError, match="disk full"):
            execute(make_job(one), quiet)
    trained: list[int] = []
    step = training._report_step
    monkeypatch.setattr(training, "_report_step", lambda *given: (trained.append(1), step(*given)))
    (row,) = execute(make_job(one), quiet)
    assert row.status == "done"
    assert not trained  # the second call only evaluated
    assert not (make_job(one).results / one.id / "checkpoint.pt").exists()


def test_a_broken_image_ends_the_run_as_failed_and_names_the_file(
    make_run: Any, make_job: Any, digits_path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(digits_path, copy)
    victim = sorted((copy / "train2017").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:200])
    one = make_run("none")
    found = one.data.model_copy(update={"fingerprint": open_coco("", tmp_path, copy).fingerprint})
    job = make_job(one.model_copy(update={"data": found})).model_copy(update={"data_path": copy})
    (row,) = execute(job, quiet)
    assert row.status == "failed"
    assert victim.name in row.reason


@pytest.mark.integration
def test_the_process_of_an_engine_speaks_json_lines(make_run: Any, make_job: Any, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    one = make_run("none", recipe=load_recipe("coco_mini", SHORT | {"max_steps": 1}))
    job.write_text(make_job(one).model_dump_json())
    file = tmp_path / "events.jsonl"
    subprocess.run([sys.executable, "-m", run.__name__, str(job), str(file)], check=True)
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["event"] for event in events] == ["phase", "step", "epoch", "row", "finished"]
    assert events[3]["status"] == "done"


@pytest.mark.integration
def test_a_job_that_ends_with_its_command_loads_in_processes_of_its_own(
    make_run: Any, make_job: Any, tmp_path: Path
) -> None:
    """Loader processes are forked while the job waits for its command's end."""
    one = make_run("none", recipe=load_recipe("coco_mini", SHORT | {"max_steps": 1}))
    file = tmp_path / "job.json"
    file.write_text(make_job(one, workers=1).model_dump_json())
    events = tmp_path / "events.jsonl"
    command = [sys.executable, "-m", run.__name__, str(file), str(events), WITH_PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as job:
        try:
            job.wait(timeout=120)
        finally:
            job.kill()
        assert "done" in events.read_text()
    assert Store(tmp_path / "runs").row(one.id) is not None


@pytest.mark.parametrize("field", ["seed", "recipe", "data", "teacher"])
def test_a_job_of_runs_that_do_not_share_a_cohort_is_refused(field: str, make_run: Any, make_job: Any) -> None:
    run = make_run("mimic")
    changed = {
        "seed": 1,
        "recipe": run.recipe.model_copy(update={"batch_size": 2}),
        "data": run.data.model_copy(update={"options": {"fraction": 0.5}}),
        "teacher": run.teacher.model_copy(update={"seed": 1}),
    }
    other = run.model_copy(update={field: changed[field]})
    words = "at most one frozen teacher, not 2" if field == "teacher" else f"the runs of a job share {field}"
    assert make_job(run, make_run("none")).runs
    with pytest.raises(ValueError, match=words):
        make_job(run, other)
    with pytest.raises(ValueError, match=words):
        Job.model_validate_json(make_job(run).model_copy(update={"runs": (run, other)}).model_dump_json())
