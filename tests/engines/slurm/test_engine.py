"""Plans on a cluster of two nodes, with nodes, limits, people and other commands in their way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.engines import driver as driver_module
from kdbench.engines import slurm as module
from kdbench.engines.base import Resources
from kdbench.engines.driver import Driver
from kdbench.engines.job_files import JobFiles
from kdbench.engines.slurm import SlurmEngine
from kdbench.engines.status import job_statuses
from kdbench.errors import EngineError
from kdbench.records.row import Row
from kdbench.spec.run import Run
from kdbench.train.events import StepEvent
from kdbench.train.job import execute as train
from tests.helpers.engines import Command
from tests.helpers.pictures import Pictures, done, numbers, short
from tests.helpers.slurm import Cluster, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def quick(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's commands reach the cluster, and are called often."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "LOOK", 0.5)
    monkeypatch.setattr(driver_module, "POLL", 0.2)
    monkeypatch.setattr(SlurmEngine, "patience", 4.0)


def driver(pictures: Pictures, results: Path, *runs: Run, **options: str) -> Driver:
    settings = pictures.job(results, *runs).settings
    return Driver(SlurmEngine(settings.results, options, ["cpu"] * 4), settings)


def long(pictures: Pictures, method: str = "none", **more: Any) -> Run:
    """A run of some seconds."""
    return pictures.run(method, recipe=short(epochs=40), **more)


def trains(results: Path, run: Run) -> str:
    """The Slurm job of a run that has trained some steps."""

    def number() -> str:
        for files in JobFiles.all(results):
            job = files.job()
            steps = [event for event in files.new_events() if isinstance(event, StepEvent) and event.step > 8]
            if job and run.id in [each.id for each in job.runs] and steps:
                return files.queue_name()
        return ""

    return wait_for(number)


def same_as_undisturbed(pictures: Pictures, folder: Path, row: Row) -> bool:
    """Trained in this process, with as many threads, which rounding depends on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(row.environment.threads)
    (expected,) = done(train(pictures.job(folder / "undisturbed", row.run), lambda _: None))
    torch.set_num_threads(threads)
    return numbers(expected) == numbers(row)


def test_teachers_come_before_their_students(pictures: Pictures, tmp_path: Path) -> None:
    teacher = pictures.run(student="resnet14", recipe=short(epochs=2))
    students = tuple(pictures.run(method, teacher=teacher) for method in ("kd", "dist"))
    alone = pictures.run()
    rows = done(Command(driver(pictures, tmp_path, alone), ((teacher,), (alone,)), (students,)).finish())
    assert len(rows) == 4 and all(row.finished >= rows[0].finished for row in rows if row.run.teacher)
    assert not list((tmp_path / "jobs").iterdir())
    assert not list(tmp_path.glob("*/lease.*"))


def test_a_run_of_a_lost_node_goes_on_on_another(pictures: Pictures, tmp_path: Path, cluster: Cluster) -> None:
    run = long(pictures)
    command = Command(driver(pictures, tmp_path, run), ((run,),))
    number = trains(tmp_path, run)
    assert [status.state for status in job_statuses(tmp_path)] == ["training"]
    node = cluster.job(number)["NodeList"]
    cluster.kill_node(node)
    cluster.wait_for_state(number, "PENDING")
    cluster.start_now(number)
    (row,) = done(command.finish())
    assert same_as_undisturbed(pictures, tmp_path, row)


@pytest.mark.slow
def test_a_time_limit_is_another_job_and_not_the_end(pictures: Pictures, tmp_path: Path, cluster: Cluster) -> None:
    run = long(pictures)
    command = Command(driver(pictures, tmp_path, run, time="10"), ((run,),))
    number = trains(tmp_path, run)
    cluster.run("scancel", "--batch", "--signal=TERM", number)  # as --signal does before the limit
    (row,) = done(command.finish())
    assert same_as_undisturbed(pictures, tmp_path, row)


def test_a_run_that_never_gets_further_ends_as_timeout(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlurmEngine, "script", lambda self, names, threads: _interrupted(self, names))
    run = pictures.run()
    command = Command(driver(pictures, tmp_path, run), ((run,),))
    (row,) = command.finish()
    assert row.status == "timeout" and "3 times without getting further" in row.reason


def _interrupted(engine: SlurmEngine, names: list[str]) -> str:
    """A batch script whose jobs are asked to stop before their first step."""
    (name,) = names
    return f'#!/bin/bash\necho \'{{"event": "interrupted"}}\' >> {engine.results}/jobs/{name}.jsonl\nexit 143\n'


@pytest.mark.slow
def test_a_cancelled_job_leaves_rows_that_say_so(pictures: Pictures, tmp_path: Path, cluster: Cluster) -> None:
    run = long(pictures)
    command = Command(driver(pictures, tmp_path, run), ((run,),))
    cluster.run("scancel", trains(tmp_path, run))
    (row,) = command.finish()
    assert row.status == "cancelled" and "resumes it from its checkpoint" in row.reason
    (row,) = done(Command(driver(pictures, tmp_path, run), ((run,),)).finish())
    assert same_as_undisturbed(pictures, tmp_path, row)


@pytest.mark.slow
def test_two_commands_on_one_folder_share_a_plan(pictures: Pictures, tmp_path: Path) -> None:
    runs = tuple((long(pictures, seed=seed),) for seed in range(3))
    commands = [Command(driver(pictures, tmp_path, *runs[0]), runs) for _ in range(2)]
    first, second = (done(command.finish()) for command in commands)
    assert first == second and len(first) == 3
    assert not list(tmp_path.glob("*/lease.*"))


@pytest.mark.slow
def test_a_command_that_was_killed_is_followed_by_the_next(
    pictures: Pictures, tmp_path: Path, cluster: Cluster
) -> None:
    """The job that runs is waited for, and the one that is queued is not submitted again."""
    running, queued = long(pictures), long(pictures, seed=1)
    killed = driver(pictures, tmp_path, running).engine
    assert isinstance(killed, SlurmEngine)
    for run, options in ((running, {}), (queued, {"begin": "now+1hour"})):
        killed.options = options
        killed.submit(pictures.job(tmp_path.resolve(), run), Resources("cpu", 1))
        killed._submit_new()
    trains(tmp_path, running)
    command = Command(driver(pictures, tmp_path, running), ((running,), (queued,)))
    wait_for(lambda: command.driver.elsewhere)
    number = next(job["id"] for job in cluster.jobs() if job["state"] == "PENDING")
    cluster.run("scontrol", "update", f"JobId={number}", "StartTime=now")
    rows = done(command.finish())
    assert len(rows) == 2 and len(cluster.jobs()) == 2


def test_what_slurm_does_not_take_is_said_before_any_work(pictures: Pictures, tmp_path: Path) -> None:
    engine = SlurmEngine(tmp_path, {"partition": "gpuu"}, ["cpu"])
    with pytest.raises(EngineError, match="invalid partition specified: gpuu.*--slurm"):
        engine.check(Resources("cpu", 1))
    with pytest.raises(EngineError, match="Requested node configuration is not available"):
        SlurmEngine(tmp_path, {}, ["cpu"]).check(Resources("cpu", 99))
    SlurmEngine(tmp_path, {"partition": "low"}, ["cuda:0"]).check(Resources("cuda:0", 1))


def test_a_controller_that_does_not_answer_is_asked_again(pictures: Pictures, tmp_path: Path, cluster: Cluster) -> None:
    run = long(pictures)
    command = Command(driver(pictures, tmp_path, run), ((run,),))
    trains(tmp_path, run)
    cluster.kill_controller()
    wait_for(lambda: getattr(command.driver.engine, "_refused", None) or not command.thread.is_alive())
    cluster.start_controller()
    done(command.finish())
