"""The Slurm engine with commands in place of Slurm's that answer as no cluster under test does at will."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.engines import slurm as module
from kdbench.engines.base import End, Resources
from kdbench.engines.job_files import JobFiles
from kdbench.engines.slurm import SlurmEngine
from kdbench.errors import SpecError
from kdbench.grid.plan import Plan
from kdbench.launch.site import site_of
from kdbench.records.leases import this_process
from kdbench.spec.engine_options import parse_slurm
from kdbench.spec.request import RunRequest
from kdbench.train.events import HeldEvent, InterruptedEvent, WarningEvent, to_line
from kdbench.train.job import Job

CPU = Resources("cpu", 1)


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are found, with a queue that takes every job."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(module, "LOOK", 0.0)
    monkeypatch.setattr(SlurmEngine, "patience", 0.0)
    for name, script in {"sbatch": "cat > /dev/null; echo 17", "squeue": running(), "scancel": ""}.items():
        command(folder, name, script)
    return folder


def command(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def running(state: str = "RUNNING") -> str:
    return f"echo '17_0|{state}|None'"


def submitted(engine: SlurmEngine, plan: Plan, tmp_path: Path) -> str:
    return engine.submit(Job(data_root=tmp_path, results=engine.results, runs=plan.runs[1:]), CPU)


@pytest.fixture
def slurm(tmp_path: Path) -> SlurmEngine:
    return SlurmEngine(tmp_path / "runs", {}, ["cpu"])


def news(engine: SlurmEngine, polls: int = 4) -> list[object]:
    return [each for _ in range(polls) for _, each in engine.poll(0.0)]


def ends(engine: SlurmEngine) -> list[End]:
    return [each for each in news(engine) if isinstance(each, End)]


@pytest.mark.parametrize("words", ["Munge encode failed: Failed to access socket", "Protocol authentication error"])
def test_a_queue_that_cannot_be_asked_has_forgotten_no_job(
    words: str, slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path
) -> None:
    submitted(slurm, plan, tmp_path)
    assert news(slurm) == []
    command(bin_folder, "squeue", f"echo 'slurm_load_jobs error: {words}' >&2; exit 1")
    (warning,) = news(slurm)
    assert isinstance(warning, WarningEvent) and words in warning.text
    command(bin_folder, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    (end,) = ends(slurm)
    assert "knows it no longer" in end.reason and end.retry


@pytest.mark.parametrize(
    "words", ["Unable to contact slurm controller (connect failure)", "Job violates accounting/QOS policy"]
)
def test_jobs_that_wait_to_be_submitted_say_why(
    words: str, slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path
) -> None:
    submitted(slurm, plan, tmp_path)
    if "violates" in words:  # other jobs of this command are in the queue
        news(slurm)
        job = Job(data_root=tmp_path, results=slurm.results, runs=plan.runs[:1])
        command(bin_folder, "sbatch", f"cat > /dev/null; echo 'sbatch: error: {words}' >&2; exit 1")
        slurm.submit(job, CPU)
    command(bin_folder, "sbatch", f"cat > /dev/null; echo 'sbatch: error: {words}' >&2; exit 1")
    (warning,) = news(slurm)
    assert isinstance(warning, WarningEvent) and words in warning.text


def test_the_rest_of_a_cohort_goes_on_where_another_process_has_taken_over_a_run(
    slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path
) -> None:
    handle = submitted(slurm, plan, tmp_path)
    news(slurm)
    lines = [HeldEvent(run=plan.runs[1].id, holder="another process"), InterruptedEvent()]
    (slurm.results / "jobs" / f"{handle}.jsonl").write_text("".join(to_line(event) + "\n" for event in lines))
    command(bin_folder, "squeue", running("FAILED"))
    (end,) = ends(slurm)
    assert end.retry


def test_a_job_that_ended_a_moment_ago_is_given_the_time_that_its_row_may_take_to_be_seen(
    slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    slurm.patience = 60.0
    submitted(slurm, plan, tmp_path)
    news(slurm)
    command(bin_folder, "squeue", running("COMPLETED"))
    assert ends(slurm) == []
    now[0] += 50.0
    assert ends(slurm) == []
    now[0] += 20.0
    assert len(ends(slurm)) == 1


def test_a_job_that_has_ended_can_be_cancelled(
    slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path
) -> None:
    handle = submitted(slurm, plan, tmp_path)
    command(bin_folder, "squeue", running("NODE_FAIL"))
    assert len(ends(slurm)) == 1
    slurm.cancel(handle)


def test_a_percent_sign_in_the_results_path_is_none_of_slurms(tmp_path: Path) -> None:
    engine = SlurmEngine(tmp_path / "50%j of all", {}, ["cpu"])
    (output,) = (each for each in engine.command(CPU, 1) if each.startswith("--output="))
    assert output.endswith("/50%%j of all/jobs/slurm-%A_%a.log")


@pytest.mark.parametrize("option", ["wait", "test-only", "clusters=other", "help"])
def test_options_with_which_jobs_cannot_be_followed_are_refused(option: str) -> None:
    with pytest.raises(SpecError, match=f"--slurm {option.partition('=')[0]}: .*leave it out"):
        parse_slurm([option])


def test_a_reason_for_which_jobs_may_wait_for_ever_is_told_once(
    slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path
) -> None:
    submitted(slurm, plan, tmp_path)
    command(bin_folder, "squeue", "echo '17_0|PENDING|Priority'")
    assert news(slurm) == []
    command(bin_folder, "squeue", "echo '17_0|PENDING|PartitionTimeLimit'")
    (warning,) = news(slurm)
    assert isinstance(warning, WarningEvent) and "17_0 waits" in warning.text and "PartitionTimeLimit" in warning.text


def test_a_queued_job_of_an_earlier_command_is_followed_and_that_is_said(
    slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path
) -> None:
    submitted(slurm, plan, tmp_path)
    command(bin_folder, "squeue", running("PENDING"))
    news(slurm)
    (bin_folder / "sbatch").unlink()  # nothing is submitted
    other = SlurmEngine(slurm.results, {"partition": "other"}, ["cpu"])
    submitted(other, plan, tmp_path)
    (warning,) = news(other)
    assert isinstance(warning, WarningEvent) and "17_0 of an earlier command" in warning.text


def test_a_job_that_slurm_does_not_cancel_is_cancelled_again(
    slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path
) -> None:
    handle = submitted(slurm, plan, tmp_path)
    command(bin_folder, "squeue", running("PENDING"))
    news(slurm)
    command(bin_folder, "scancel", "echo 'scancel: error: Unable to contact slurm controller' >&2; exit 1")
    slurm.cancel(handle)
    (warning,) = news(slurm)
    assert isinstance(warning, WarningEvent) and "scancel: " in warning.text and "Unable to contact" in warning.text
    command(bin_folder, "scancel", f"echo $1 >> {tmp_path}/cancelled")
    assert [end.status for end in ends(slurm)] == ["cancelled"]
    assert (tmp_path / "cancelled").read_text() == "17_0\n"


def test_a_job_that_has_ended_cannot_be_cancelled_and_that_is_no_refusal(
    slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path
) -> None:
    handle = submitted(slurm, plan, tmp_path)
    news(slurm)
    words = "scancel: error: Kill job error on job id 17_0: Invalid job id specified"
    command(bin_folder, "scancel", f"echo '{words}' >&2; exit 1")
    slurm.cancel(handle)
    assert news(slurm) == []


def test_a_job_that_another_command_follows_too_is_left_to_it(
    slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path
) -> None:
    command(bin_folder, "scancel", f"echo $1 >> {tmp_path}/cancelled")
    handle = submitted(slurm, plan, tmp_path)
    command(bin_folder, "squeue", running("PENDING"))
    news(slurm)
    (files,) = JobFiles.all(slurm.results)
    ended = replace(this_process(), process=2**22 + 1)  # no process has so high a number
    for other in (ended, replace(this_process(), host="login2", scope="another")):
        with files.followers.open("a") as file:
            file.write(f"{json.dumps(vars(other))}\n")
    slurm.cancel(handle)
    warning, end = news(slurm)
    assert isinstance(warning, WarningEvent) and "on login2 follows it, too: scancel 17_0" in warning.text
    assert isinstance(end, End) and end.status == "cancelled" and not (tmp_path / "cancelled").exists()
    assert files.queue_name() == "17_0" and [holder.host for holder in files.followed_by()] == ["login2"]


def test_a_job_whose_other_commands_have_ended_is_cancelled(
    slurm: SlurmEngine, bin_folder: Path, plan: Plan, tmp_path: Path
) -> None:
    """As by somebody who gives the same command again after a lost connection."""
    command(bin_folder, "scancel", f"echo $1 >> {tmp_path}/cancelled")
    submitted(slurm, plan, tmp_path)
    command(bin_folder, "squeue", running("PENDING"))
    news(slurm)
    (files,) = JobFiles.all(slurm.results)
    files.followers.write_text(json.dumps(vars(replace(this_process(), process=2**22 + 1))) + "\n")
    again = SlurmEngine(slurm.results, {}, ["cpu"])
    handle = submitted(again, plan, tmp_path)
    again.cancel(handle)
    assert [end.status for end in ends(again)] == ["cancelled"]
    assert (tmp_path / "cancelled").read_text() == "17_0\n" and not files.followers.exists()


def test_loader_processes_are_asked_for_before_any_job_is_submitted(bin_folder: Path, tmp_path: Path) -> None:
    """sbatch refuses here what no node has, and not when students are submitted after hours of their teacher."""
    command(bin_folder, "sbatch", f'cat > /dev/null; echo "$@" > {tmp_path}/options')
    site_of(RunRequest(engine="slurm", slurm={"gres": "gpu:1"}, workers=60, results=tmp_path / "runs"), print)
    assert "--cpus-per-task=61" in (tmp_path / "options").read_text()
