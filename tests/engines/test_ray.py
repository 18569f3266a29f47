"""The Ray engine, on a cluster of two CPUs on this machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from kdbench import engines  # noqa: E402
from kdbench.engines import ray_cluster  # noqa: E402
from kdbench.engines.base import Resources  # noqa: E402
from kdbench.engines.ray import RayEngine  # noqa: E402
from kdbench.engines.status import job_statuses  # noqa: E402
from kdbench.errors import EngineError, SpecError  # noqa: E402
from kdbench.launch.site import site_of  # noqa: E402
from kdbench.records.leases import Leases  # noqa: E402
from kdbench.records.row import Row  # noqa: E402
from kdbench.records.store import read_rows  # noqa: E402
from kdbench.spec.request import RunRequest  # noqa: E402
from kdbench.tasks.loading import cores  # noqa: E402
from tests.helpers.engines import Command  # noqa: E402
from tests.helpers.memory_limit import limit_memory  # noqa: E402
from tests.helpers.pictures import Pictures, done, numbers, short  # noqa: E402
from tests.helpers.ray_jobs import driver, long, trains  # noqa: E402
from tests.helpers.slurm import wait_for  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.usefixtures("quick"),
]


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_teachers_come_before_their_students(cluster: str, pictures: Pictures, tmp_path: Path) -> None:
    teacher = pictures.run(student="resnet14", recipe=short(epochs=2))
    students = tuple(pictures.run(method, teacher=teacher) for method in ("kd", "dist"))
    alone = pictures.run()
    made = driver(pictures, tmp_path, alone)
    assert isinstance(made.engine, RayEngine)
    made.engine.excluded["0" * 56] = "its GPU cannot be used"
    rows = done(Command(made, ((teacher,), (alone,)), (students,), threads=1).finish())
    assert len(rows) == 4 and all(row.finished >= rows[0].finished for row in rows if row.run.teacher)
    assert not list((tmp_path / "jobs").iterdir())
    assert not list(tmp_path.glob("*/lease.*"))


@pytest.mark.parametrize("whose", ["worker", "job"])
def test_a_run_whose_worker_or_process_is_killed_goes_on(
    cluster: str, pictures: Pictures, tmp_path: Path, undisturbed: Row, whose: str
) -> None:
    run = long(pictures)
    command = Command(driver(pictures, tmp_path, run), ((run,),), threads=1)
    process = trains(tmp_path, run)
    assert [status.state for status in job_statuses(tmp_path)] == ["training"]
    os.kill(parent(process) if whose == "worker" else process, signal.SIGKILL)
    (row,) = done(command.finish())
    assert numbers(row) == numbers(undisturbed)


def test_a_job_that_the_kernel_kills_for_memory_ends_as_out_of_memory(
    cluster: str, pictures: Pictures, tmp_path: Path
) -> None:
    run = pictures.run(recipe=short(epochs=4000))
    command = Command(driver(pictures, tmp_path, run), ((run,),), threads=1)
    with limit_memory(trains(tmp_path, run)):
        (row,) = command.finish()
    assert row.status == "out-of-memory" and row.reason.startswith("the kernel killed the process for memory")


def test_a_job_that_waits_for_cores_is_shown_as_queued(cluster: str, pictures: Pictures, tmp_path: Path) -> None:
    engine = RayEngine(None, ["cpu"])
    handle = engine.submit(pictures.job(tmp_path, pictures.run()), Resources("cpu", 99))
    (status,) = job_statuses(tmp_path)
    assert status.state.startswith("queued: Ray task ") and str(os.getpid()) in status.state
    engine.cancel(handle)
    end = wait_for(lambda: engine.poll(0.1))
    assert [news.status for _, news in end] == ["cancelled"]


def test_a_job_that_is_cancelled_saves_and_leaves_no_process(
    cluster: str, pictures: Pictures, tmp_path: Path, undisturbed: Row
) -> None:
    run = long(pictures)
    made = driver(pictures, tmp_path, run)
    handle = made.engine.submit(pictures.job(tmp_path, run), Resources("cpu", 1))
    process = trains(tmp_path, run)
    made.engine.cancel(handle)
    wait_for(lambda: any(getattr(news, "status", "") == "cancelled" for _, news in made.engine.poll(0.1)))
    assert not Path(f"/proc/{process}").exists() and Leases(tmp_path).holder(run.id) is None
    assert (tmp_path / run.id / "checkpoint.pt").exists() and not (tmp_path / run.id / "row.json").exists()
    (row,) = done(Command(made, ((run,),), threads=1).finish())
    assert numbers(row) == numbers(undisturbed)


def test_a_job_whose_time_is_over_ends_as_timeout(cluster: str, pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run(recipe=short(epochs=4000))
    (row,) = Command(driver(pictures, tmp_path, run, timeout=8.0), ((run,),), threads=1).finish()
    assert row.status == "timeout" and "stopped after 8 s" in row.reason


def test_other_data_on_a_node_is_an_error_that_names_the_node(cluster: str, pictures: Pictures, tmp_path: Path) -> None:
    other = pictures.data.model_copy(update={"fingerprint": pictures.data.fingerprint[::-1]})
    run = pictures.run(data=other)
    (row,) = Command(driver(pictures, tmp_path, run), ((run,),), threads=1).finish()
    assert row.status == "failed" and "changed since the runs were planned" in row.reason
    assert row.reason.endswith(f"({os.uname().nodename})")


def test_a_cluster_that_does_not_answer_is_an_error_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=_answer, args=(server,), daemon=True).start()
        with pytest.raises(EngineError, match=f"--address 127.0.0.1:{port}: what answers there is no Ray cluster"):
            site_of(RunRequest(engine="ray", address=f"127.0.0.1:{port}"), print)
    with pytest.raises(EngineError, match="nothing answers there"):
        site_of(RunRequest(engine="ray", address=f"127.0.0.1:{port}"), print)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(EngineError, match=f"RAY_ADDRESS 127.0.0.1:{port}: nothing answers"):
        site_of(RunRequest(engine="ray"), print)


def _answer(server: socket.socket) -> None:
    """As a web server does to what is no HTTP/1."""
    connection, _ = server.accept()
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connection.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "ray", "address": "nonsense:x"}, "--address nonsense:x: give HOST:PORT"),
        ({"engine": "ray", "address": "ray://head:10001"}, "jobs of a Ray client cannot be followed"),
        ({"engine": "ray", "slurm": {"partition": "gpu"}}, "--slurm is for --engine slurm"),
        ({"address": "head:6379"}, "--address is for --engine ray"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises((EngineError, SpecError), match=words):
        site_of(RunRequest(**options), print)


def test_without_ray_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("kdbench.engines.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(engines, "ray_cluster")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpecError, match=re.escape("pip install 'kdbench[ray]'")):
        site_of(RunRequest(engine="ray"), print)


@pytest.mark.parametrize(
    ("nodes", "options", "devices", "cores", "asked"),
    [
        (((8, 0), (4, 0)), {}, ("cpu",), 1, {"num_cpus": 1}),
        (((8, 0), (4, 0)), {"jobs": 2}, ("cpu",), 2, {"num_cpus": 2}),
        (((8, 0), (16, 2)), {}, ("cuda:0",), 8, {"num_cpus": 8, "num_gpus": 1}),
        (((16, 2),), {"jobs": 4}, ("cuda:0",), 2, {"num_cpus": 2, "num_gpus": 0.25}),
        (((16, 2),), {"devices": ("cpu",)}, ("cpu",), 1, {"num_cpus": 1}),
        (((2, 4),), {"jobs": 3, "workers": 0}, ("cuda:0",), 1, {"num_cpus": 1, "num_gpus": 0.3333}),
    ],
)
def test_jobs_share_the_cores_and_gpus_of_a_node(
    nodes: tuple[tuple[int, int], ...], options: dict[str, Any], devices: tuple[str, ...], cores: int,
    asked: dict[str, float], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(ray_cluster, "find", lambda address: address)
    monkeypatch.setattr(ray_cluster, "connect", lambda address: None)
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [ray_cluster.Node(*node) for node in nodes])
    site = site_of(RunRequest(engine="ray", address="head:6379", **options), print)
    assert (site.devices, site.cores) == (devices, cores)
    engine = site.engine(site.slots("full"))
    assert isinstance(engine, RayEngine)
    needs = engine.needs(Resources(devices[0], cores, site.workers("full")))
    assert needs == asked


@pytest.mark.parametrize(("jobs", "at_a_time"), [(None, cores()), (1, 1), (2, max(1, cores() // max(1, cores() // 2)))])
def test_a_new_cluster_is_given_as_many_jobs_as_it_runs(
    jobs: int | None, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "find", lambda address: None)
    site = site_of(RunRequest(engine="ray", devices=("cpu",), jobs=jobs), print)
    assert site.slots("full") == ("cpu",) * at_a_time


@pytest.mark.slow
def test_a_command_that_was_killed_is_followed_by_the_next(cluster: str, tmp_path: Path) -> None:
    """Its jobs end with it; the next command, which is interrupted, leaves what it has saved to the third."""
    words = ["run", "dist/cifar100", "--scale", "mini", "--seeds", "1", "--methods", "kd", "--device", "cpu"]
    changes = ("batch_size=4", "epoch_steps=3", "epochs=30", "eval_every=10", "warmup_steps=2")
    sets = [f"--set={prefix}{each}" for prefix in ("", "teacher.") for each in changes]
    line = [sys.executable, "-m", "kdbench", *words, *sets, "--engine", "ray", "--address", cluster]
    line += ["--results", str(tmp_path)]
    for number in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as command:
            process = wait_for(lambda: _trained(tmp_path), 120)
            command.send_signal(number)
            printed = command.communicate()[0]
        assert "Traceback" not in printed
        wait_for(lambda: not Path(f"/proc/{process}").exists())  # noqa: B023
    finished = subprocess.run(line, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert {row.status for row in read_rows([tmp_path])[0]} == {"done"}
    assert not list(tmp_path.glob("*/lease.*")) and not list((tmp_path / "jobs").iterdir())


def _trained(results: Path) -> int:
    """A process that trains and has reported a step."""
    return next((each.holder.process for each in job_statuses(results) if each.holder and each.last), 0)
