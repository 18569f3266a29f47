"""`kdbench status`: who trains what in a results folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.engines.job_files import JobFiles
from kdbench.engines.status import job_statuses, print_status
from kdbench.records.leases import Leases, this_process
from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.train.events import ErrorEvent, StepEvent, to_line
from kdbench.train.job import Job


def job_of(results: Path, *rows: Row) -> JobFiles:
    return JobFiles.create(Job(runs=tuple(row.run for row in rows), data_root=results, results=results))


def report(files: JobFiles, *events: StepEvent | ErrorEvent) -> None:
    files.events.write_text("".join(to_line(event) + "\n" for event in events))


def step(row: Row, number: int) -> StepEvent:
    losses = {row.id: {"task": 1.0}}
    return StepEvent(epoch=2, step=number, steps=500, losses=losses, lr=0.1, images_per_second=50.0)


def test_jobs_that_train_wait_or_failed_are_told_apart(
    rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, none, dist = rows
    for row in (teacher, none):
        Leases(tmp_path).take(row.id)
    report(job_of(tmp_path, teacher), step(teacher, 10), step(teacher, 20))
    job_of(tmp_path, none)
    job_of(tmp_path, dist).queue.write_text("Slurm job 7\n")
    assert [each.state for each in job_statuses(tmp_path)] == ["training", "starting", "queued: Slurm job 7"]
    Store(tmp_path).write(teacher)
    print_status(tmp_path)
    printed = capsys.readouterr().out
    assert f"process {os.getpid()} on" in printed and "step 20/500, epoch 2, 50 images/s" in printed
    assert "2 jobs under way" in printed and "results of runs: 1 done" in printed


def test_what_ended_a_job_is_shown_until_its_runs_have_another(rows: list[Row], tmp_path: Path) -> None:
    files = job_of(tmp_path, rows[0])
    report(files, step(rows[0], 10), ErrorEvent(status="out-of-memory", reason="no room"))
    assert [each.state for each in job_statuses(tmp_path)] == ["out-of-memory"]
    os.utime(files.spec, (1, 1))
    job_of(tmp_path, rows[0])
    assert [each.state for each in job_statuses(tmp_path)] == ["stopped"]


def test_a_process_of_another_machine_that_shows_no_life_is_silent(rows: list[Row], tmp_path: Path) -> None:
    job_of(tmp_path, rows[0])
    Leases(tmp_path).take(rows[0].id)
    lease = tmp_path / rows[0].id / "lease.1"
    lease.write_text(json.dumps(json.loads(lease.read_text()) | {"host": "node7", "scope": "another"}))
    os.utime(lease, (time.time() - 600,) * 2)
    (found,) = job_statuses(tmp_path)
    assert found.state == "silent for 10 min" and "node7" in str(found.holder)


def test_jobs_whose_runs_have_rows_are_not_shown(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a command that was killed, whose jobs went on in a queue."""
    monkeypatch.setenv("PATH", str(tmp_path))  # without Slurm's commands
    files = job_of(tmp_path, *rows[1:])
    files.queue.write_text("7_0\n")
    for number, row in enumerate(rows[1:], 1):
        assert [each.state for each in job_statuses(tmp_path)] == ["submitted: 7_0"]
        Store(tmp_path).write(row)
        assert files.is_settled() == (number == 2) == files.is_settled({"done"})
    assert job_statuses(tmp_path) == [] and not files.is_settled({"failed"})


def test_an_empty_folder_has_no_jobs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kdbench", "status", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"0 jobs under way in {tmp_path}; results of runs: none"


SQUEUE = "printf '7_0|PENDING|Priority\\n7_1|RUNNING|None\\n7_2|COMPLETED|None\\n'"


@pytest.mark.parametrize(
    ("squeue", "states"),
    [
        (SQUEUE, ["queued: 7_0", "running: 7_1", "stopped", "stopped"]),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", None),
        (None, None),
    ],
)
def test_what_slurm_has_forgotten_is_not_queued(
    squeue: str | None, states: list[str] | None, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Slurm cannot be asked, what was submitted is shown."""
    for number in range(4):
        run = rows[1].run.model_copy(update={"seed": number})
        job_of(tmp_path, rows[1].model_copy(update={"run": run, "id": run.id})).queue.write_text(f"7_{number}\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    if squeue:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\n{squeue}\n")
        (tmp_path / "bin" / "squeue").chmod(0o755)
    expected = states or [f"submitted: 7_{number}" for number in range(4)]
    assert sorted(each.state for each in job_statuses(tmp_path)) == sorted(expected)


def test_a_job_that_ends_with_its_command_is_not_queued_after_that(rows: list[Row], tmp_path: Path) -> None:
    files = job_of(tmp_path, rows[0])
    files.queue.write_text("Ray task 12ab of process 7\n")
    files.follow()
    assert [each.state for each in job_statuses(tmp_path)] == ["queued: Ray task 12ab of process 7"]
    files.followers.write_text(json.dumps(vars(replace(this_process(), process=2**22 + 1))) + "\n")
    assert [each.state for each in job_statuses(tmp_path)] == ["stopped"]
