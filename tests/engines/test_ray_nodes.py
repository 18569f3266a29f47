"""The Ray engine on a node that does not see the results folder, as on a machine of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

from kdbench.engines.base import End, Engine, Resources  # noqa: E402
from kdbench.engines.ray import RayEngine  # noqa: E402
from kdbench.engines.status import job_statuses  # noqa: E402
from kdbench.records import checkpoint  # noqa: E402
from kdbench.records.leases import Leases  # noqa: E402
from kdbench.records.row import Row  # noqa: E402
from kdbench.spec.run import Run  # noqa: E402
from kdbench.train.events import Event, InterruptedEvent, StepEvent  # noqa: E402
from kdbench.train.journal import kept_events  # noqa: E402
from tests.helpers import namespaces  # noqa: E402
from tests.helpers.engines import Command  # noqa: E402
from tests.helpers.pictures import Pictures, done, numbers  # noqa: E402
from tests.helpers.ray_jobs import driver, long, trains  # noqa: E402
from tests.helpers.ray_nodes import Node  # noqa: E402
from tests.helpers.slurm import wait_for  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.usefixtures("quick"),
]

StartNode = Callable[..., Node]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that other nodes do not see."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture
def results(hidden: Path, tmp_path: Path) -> Path:
    return hidden / tmp_path.name


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """Where other nodes have their temporary folders; with a short path."""
    with tempfile.TemporaryDirectory(prefix="node", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def start_node(cluster: str, hidden: Path, temporary: Path) -> Iterator[StartNode]:
    """Starts nodes, which end with the module; skips the tests, with the reason, where that is not possible."""
    if reason := namespaces.missing():
        pytest.skip(reason)
    with ExitStack() as stack:

        def start(name: str, **settings: str) -> Node:
            node = Node(cluster, name, hidden, temporary, TMPDIR=str(temporary), **settings)
            stack.callback(node.kill)
            return node

        yield start


@pytest.fixture(scope="module")
def other(start_node: StartNode) -> Node:
    """A node that does not see `hidden`."""
    return start_node("other")


@contextmanager
def busy() -> Iterator[None]:
    """The node of this process takes no jobs."""

    class Nothing:
        pass

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Nothing).options(num_cpus=2, scheduling_strategy=here).remote()
    ray.get(actor.__ray_ready__.remote())
    try:
        yield
    finally:
        ray.kill(actor)


def test_a_cohort_is_trained_on_a_node_that_does_not_see_the_results_folder(
    other: Node, pictures: Pictures, results: Path, undisturbed: Row, temporary: Path
) -> None:
    runs = long(pictures), long(pictures, method="kd")
    with busy():
        command = Command(driver(pictures, results, *runs), (runs,), threads=1)
        trains(results, runs[0])
        (status,) = job_statuses(results)
        alone, taught = done(command.finish())
    assert (status.state, str(status.holder)[:18]) == ("training", "other for process ")
    assert numbers(alone) == numbers(undisturbed)
    assert taught.teacher is not None and taught.student is not None
    for row in (alone, taught):
        assert {file.name for file in (results / row.id).iterdir()} == {"row.json", "classes.json", "student.pt"}
        assert row.student is not None and checkpoint.sha256(results / row.student.file) == row.student.sha256
    assert not list((results / "jobs").iterdir()) and not list(temporary.glob("kdbench-job-*"))


def test_what_a_cancelled_job_saves_there_comes_back(
    other: Node, pictures: Pictures, results: Path, temporary: Path
) -> None:
    run = long(pictures)
    job = pictures.job(results, run, journal=True)
    with busy(), RayEngine(None, ["cpu"]) as engine:
        handle = engine.submit(job, Resources("cpu", 1))
        news = follow(engine, lambda each: isinstance(each, StepEvent) and each.step > 8)
        engine.cancel(handle)
        news += follow(engine, lambda each: isinstance(each, End))
    assert isinstance(news[-1], End) and news[-1].status == "cancelled", news[-1]
    assert any(isinstance(each, InterruptedEvent) for each in news)
    steps = [each.step for each in news if isinstance(each, StepEvent)]
    assert checkpoint.read(results / run.id / "checkpoint.pt")["steps"] == steps[-1]
    assert [each.step for each in kept_events(results / run.id, 99) if isinstance(each, StepEvent)] == steps
    assert not list((results / run.id).glob("lease.*")) and not list(temporary.glob("kdbench-job-*"))


COMMAND = """
import sys
from kdbench.engines.base import PlannedJob
from kdbench.engines.driver import Driver
from kdbench.engines.ray import RayEngine
from kdbench.train.job import Job
job = Job.model_validate_json(sys.argv[2])
Driver(RayEngine(sys.argv[1], ["cpu"]), job.settings).execute([PlannedJob(job.runs, 0, 1)], job.runs)
"""


def test_a_run_survives_its_command_the_process_that_writes_its_results_and_its_node(
    other: Node, cluster: str, pictures: Pictures, results: Path, undisturbed: Row, capsys: pytest.CaptureFixture[str]
) -> None:
    run = long(pictures)
    given = pictures.job(results, run).model_dump_json()
    with busy():
        with subprocess.Popen([sys.executable, "-c", COMMAND, cluster, given], stdout=subprocess.DEVNULL) as first:
            relay = trains(results, run)
            first.kill()
        wait_for(lambda: Leases(results).holder(run.id) is None)
        assert (results / run.id / "checkpoint.pt").exists()
        made = driver(pictures, results, run)
        command = Command(made, ((run,),), threads=1)
        relay = wait_for(lambda: _holder(results, run, relay) if made.reached else 0)
        os.kill(relay, signal.SIGKILL)
        wait_for(lambda: _holder(results, run, relay))
        reached = dict(made.reached)  # no more comes of the job that was killed
        wait_for(lambda: made.reached != reached)
        other.kill()
    (row,) = done(command.finish())
    assert numbers(row) == numbers(undisturbed)
    printed = capsys.readouterr().out
    assert printed.count("resumed after step") == 3 and not list((results / "jobs").iterdir())
    reasons = re.findall(r"^(\S+): .*; 1 run given to another job$", printed, re.MULTILINE)
    assert reasons == ["killed", "node-failure"]


def _holder(results: Path, run: Run, other: int) -> int:
    """The process that trains a run, if it is another one."""
    holder = Leases(results).holder(run.id)
    return holder.process if holder and holder.process != other else 0


def test_a_job_for_which_ray_finds_too_little_memory_ends_as_out_of_memory(
    start_node: StartNode, pictures: Pictures, tmp_path: Path
) -> None:
    """Ray's monitor kills workers of a node whose memory is used beyond a share, here nearly none of it."""
    run = pictures.run()
    with busy():
        start_node("small", RAY_memory_usage_threshold="0.01", RAY_memory_monitor_refresh_ms="100")
        (row,) = Command(driver(pictures, tmp_path, run), ((run,),), threads=1).finish()
    assert row.status == "out-of-memory" and row.reason.startswith("Ray killed its worker")


def follow(engine: Engine, until: Callable[[Event | End], bool]) -> list[Event | End]:
    """What the job of an engine reports, up to something."""
    news: list[Event | End] = []
    while not any(map(until, news)):
        assert not (ended := [each for each in news if isinstance(each, End)]), ended[0].reason
        news += [each for _, each in engine.poll(0.1)]
    return news
