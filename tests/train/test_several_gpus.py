"""Jobs on several GPUs, here as processes on a CPU: they compute what one process would, and none is left waiting."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from kdbench import methods
from kdbench.engines.process import THREADS
from kdbench.networks.load import load_network
from kdbench.records import checkpoint as checkpoints
from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.spec.run import Run
from kdbench.tasks.shard import Shard
from kdbench.train.events import Event, from_line
from kdbench.train.job import Job, execute
from tests.helpers import two_ranks
from tests.helpers.pictures import Pictures, done, numbers, short, state_of
from tests.helpers.tensors import equal

pytestmark = pytest.mark.integration

WHERE = [sys.executable, "-m"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


class Started:
    """A job's process, and what it has reported."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.events_file = folder / f"events-{time.monotonic_ns()}.jsonl"
        spec = self.events_file.with_suffix(".json")
        spec.write_text(job.model_dump_json())
        command = [*WHERE, "kdbench.train.job", str(spec), str(self.events_file)]
        environment = os.environ | THREADS | {"OMP_NUM_THREADS": "2"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    @property
    def events(self) -> list[Event]:
        lines = self.events_file.read_text().splitlines() if self.events_file.exists() else []
        return [event for line in lines if (event := from_line(line))]

    def wait_until(self, seen: Callable[[list[Event]], bool]) -> None:
        until = time.monotonic() + 300
        while not seen(self.events):
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < until, self.events
            time.sleep(0.05)

    def ranks(self) -> list[int]:
        """Its processes by rank."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_text().split("\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == self.process.pid and "kdbench.train.rank" in words:
                found[int(words[words.index("kdbench.train.rank") + 1])] = int(folder.name)
        return [found[rank] for rank in sorted(found)]

    def end(self) -> int:
        self.errors = self.process.communicate(timeout=400)[1]
        return self.process.returncode


def run_all(job: Job, folder: Path) -> list[Row]:
    started = Started(job, folder)
    assert started.end() == 0, started.errors
    return rows_of(job)


def rows_of(job: Job) -> list[Row]:
    rows = [Store(job.results).row(run.id) for run in job.runs]
    return [row for row in rows if row is not None]


def trained_steps(events: list[Event], least: int) -> bool:
    return any(event.event == "step" and event.step >= least for event in events)


# What is computed


def program(file: Path, *keys: str, **environment: str) -> subprocess.Popen[str]:
    command = [*WHERE, "tests.helpers.two_ranks", str(file), *keys]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)


def trained(folder: Path, keys: list[str], **environment: str) -> tuple[dict[str, Any], ...]:
    """Methods after some steps, in one process and in two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    two = {"WORLD_SIZE": "2", "MASTER_PORT": port, **environment}
    several = [program(folder / "two.pt", *keys, RANK=str(rank), **two) for rank in range(2)]
    with mock.patch.dict(os.environ, environment):
        one = two_ranks.results(keys)
    errors = [process.communicate(timeout=900)[1] for process in several]
    assert [process.returncode for process in several] == [0, 0], errors
    return one, torch.load(folder / "two.pt")


@pytest.mark.parametrize("environment", [{}, pytest.param({"MORE_STEPS": "1"}, marks=pytest.mark.slow)], ids=str)
def test_every_method_learns_in_two_processes_what_it_learns_in_one(
    environment: dict[str, str], tmp_path: Path
) -> None:
    every = [key for setup in two_ranks.setups().values() for key in setup.case.entries()]
    keys = [key for key in every if {*key.partition("/")[2].split("+")} <= {*methods._shipped()}]
    _equal(keys, *trained(tmp_path, keys, **environment))


def _equal(keys: list[str], one: dict[str, Any], two: dict[str, Any]) -> None:
    assert list(one) == list(two) == keys
    wrong = []
    for key, tensors in one.items():
        assert tensors.keys() == two[key].keys()
        for name, value in tensors.items():
            if not torch.allclose(value.double(), two[key][name].double(), rtol=1e-6, atol=1e-6):
                wrong.append(f"{key}: {name}")
    assert not wrong


@pytest.mark.parametrize("method", ["kd", "ft"])
def test_synchronized_batchnorm_counts_the_images_of_both(method: str, pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run(method, recipe=short(epochs=2, sync_batchnorm=True))
    (one,) = done(run_all(pictures.job(tmp_path / "one", run), tmp_path))
    (two,) = done(run_all(pictures.job(tmp_path / "two", run, world_size=2), tmp_path))
    whole, parts = state_of(tmp_path / "one", run), state_of(tmp_path / "two", run)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4, msg=name)
    for first, second in zip(one.history, two.history, strict=True):
        assert second.losses == pytest.approx(first.losses, rel=1e-4)


def test_a_batch_is_divided_and_padded_and_the_validation_set_is_shared_without_repeats() -> None:
    shards = [Shard(rank, 4) for rank in range(4)]
    assert [list(shard.of(range(8))) for shard in shards] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [list(shard.of(range(5))) for shard in shards] == [[0, 1], [2, 3], [4, 0], [1, 2]]
    assert [list(shard.of(range(1))) for shard in shards] == [[0]] * 4
    assert sorted(i for shard in shards for i in shard.share(range(10))) == list(range(10))
    cpu, index = torch.device("cpu"), torch.arange(20)
    assert [index[shard.positions(5, 10, cpu)].tolist() for shard in shards] == [[10, 11], [12, 13], [14, 10], [11, 12]]


# Whole jobs


LONG = 10
"""Epochs of a run that is to be met in its middle."""


@pytest.fixture(scope="module")
def cohort(pictures: Pictures, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, list[Event]]:
    """A finished job of several runs in two processes."""
    folder = tmp_path_factory.mktemp("cohort")
    methods = ("none", "crd", "mag+kd", "ekd", "akd+cwd")
    runs = [pictures.run(method, recipe=short(epochs=LONG)) for method in methods]
    job = pictures.job(folder / "runs", *runs, world_size=2)
    started = Started(job, folder)
    assert started.end() == 0, started.errors
    return job, started.events


def test_the_row_of_a_cohort_on_two_says_so_and_its_metrics_are_those_of_its_file(
    pictures: Pictures, cohort: tuple[Job, list[Event]]
) -> None:
    job, events = cohort
    runs = job.runs
    for row in done(rows_of(job)):
        assert row.environment.world_size == 2 and row.environment.machine.endswith(", 2 a run")
        assert row.cost is not None and row.cost.cohort == len(runs)
        assert row.metrics is not None and row.student is not None
        assert (job.results / row.student.file).exists()
    assert sum(event.event == "finished" for event in events) == 1
    again = pictures.task(runs[0])
    network = load_network(job.results / runs[0].id / "student.pt", "resnet8", again.classes, torch.device("cpu"))
    row = rows_of(job)[0]
    assert row.metrics is not None
    assert again.evaluate(network, torch.device("cpu"), reference=True) == row.metrics.last


def test_a_killed_process_ends_the_job_and_the_next_one_ends_bitwise_the_same(
    pictures: Pictures, cohort: tuple[Job, list[Event]], tmp_path: Path
) -> None:
    whole, _ = cohort
    run, undisturbed = whole.runs[-1], rows_of(whole)[-1]  # its dropout draws
    parts = pictures.job(tmp_path / "parts", run, world_size=2)
    started = Started(parts, tmp_path)
    started.wait_until(lambda events: any(event.event == "epoch" and event.epoch >= 2 for event in events))
    processes = started.ranks()
    os.kill(processes[1], signal.SIGKILL)
    assert started.end() == -signal.SIGKILL
    assert not any(Path(f"/proc/{process}/stat").exists() for process in processes)
    assert not rows_of(parts)
    resumed = done(run_all(parts, tmp_path))
    assert numbers(resumed[0]) == numbers(undisturbed)
    assert equal(state_of(whole.results, run), state_of(parts.results, run))


@pytest.fixture(scope="module")
def interrupted(pictures: Pictures, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, list[Event]]:
    """A job in two processes that was asked to stop in mid-run."""
    folder = tmp_path_factory.mktemp("interrupted")
    job = pictures.job(folder / "runs", pictures.run("kd", recipe=short(epochs=200)), world_size=2)
    started = Started(job, folder)
    started.wait_until(lambda events: trained_steps(events, 3))
    started.process.send_signal(signal.SIGTERM)
    assert started.end() == 143, started.errors
    return job, started.events


def test_a_signal_lets_all_processes_save_at_one_step(interrupted: tuple[Job, list[Event]]) -> None:
    job, events = interrupted
    (run,) = job.runs
    assert events[-1].event == "interrupted"
    content = checkpoints.read(job.results / run.id / "checkpoint.pt")
    assert len(content["random"]) == 2 and content["steps"] >= 3


def test_a_training_is_not_resumed_on_another_number_of_gpus(interrupted: tuple[Job, list[Event]]) -> None:
    job, _ = interrupted
    (row,) = execute(job.model_copy(update={"world_size": 1}), lambda _: None)
    assert row.status == "failed" and "2 GPUs" in row.reason and "--gpus 2" in row.reason


FAILS_ON_ONE = '''"""Fails in the second of several processes."""

import torch
from torch import Tensor

from kdbench.methods.base import Batch, Method, Outputs


class Lame(Method):
    """Fails."""

    name = "lame"
    citation = "A. User. 2026. https://example.org"
    tasks = frozenset({"classification"})

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        if torch.distributed.get_rank() == 1 and self.step == 4:
            raise RuntimeError("out of luck")
        return {"lame": student.logits.square().mean()}
'''


@pytest.mark.usefixtures("fresh_methods")
def test_an_error_in_one_process_ends_its_run_alone(
    pictures: Pictures, cohort: tuple[Job, list[Event]], tmp_path: Path
) -> None:
    file = tmp_path / "lame.py"
    file.write_text(FAILS_ON_ONE)
    methods.register(file)
    runs: list[Run] = [pictures.run(method, recipe=short(epochs=LONG)) for method in ("lame", "none")]
    job = pictures.job(tmp_path / "runs", *runs, world_size=2, method_files=(file,))
    lame, other = run_all(job, tmp_path)
    assert lame.status == "failed" and "out of luck" in lame.reason and lame.environment.world_size == 2
    assert other.status == "done"
    assert numbers(other) == numbers(rows_of(cohort[0])[0])
