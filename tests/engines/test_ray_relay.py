"""What a relay does for a node, and what a node sends, without a cluster."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from kdbench.engines import ray_mirror
from kdbench.engines.job_files import JobFiles
from kdbench.engines.ray_mirror import temporary_folder
from kdbench.engines.ray_relay import Relay
from kdbench.records.leases import Leases
from kdbench.train.events import FinishedEvent, HeldEvent
from kdbench.train.job import Job
from tests.helpers.pictures import Pictures


@pytest.fixture
def files(pictures: Pictures, tmp_path: Path) -> JobFiles:
    """Of a job with a teacher."""
    return JobFiles.create(pictures.job(tmp_path, pictures.run("kd")))


@pytest.fixture
def run_id(files: JobFiles) -> str:
    job = files.job()
    assert job is not None
    return job.runs[0].id


def test_a_node_is_given_what_its_job_needs(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run("kd")
    own = tmp_path / "mine"
    own.mkdir()
    for name in ("method.py", "beside.py", "notes.txt"):
        (own / name).write_text("# mine")
    job = pictures.job(tmp_path / "results", run, method_files=(own / "method.py",), patience=60.0)
    (job.results / run.id).mkdir()
    (job.results / run.id / "checkpoint.pt").write_bytes(b"earlier")
    made = JobFiles.create(job)
    given = Relay(job.results).open(made.name, "gpu07")
    taught = {f"runs/{pictures.teacher.id}/{name}" for name in ("row.json", "student.pt")}
    assert (
        given.keys() == {"job.json", f"runs/{run.id}/checkpoint.pt", "files/0/method.py", "files/0/beside.py"} | taught
    )
    there = Job.model_validate_json(given["job.json"])
    assert (there.results, there.method_files) == (Path("runs"), (Path("files/0/method.py"),))
    assert there.data_root == job.data_root and there.patience == 0
    assert str(Leases(job.results).holder(run.id)) == f"gpu07 for process {os.getpid()} on {os.uname().nodename}"


def test_a_teacher_file_is_given_in_place_of_the_teachers_run(pictures: Pictures, tmp_path: Path) -> None:
    file = tmp_path / "teacher.pt"
    file.write_bytes(b"weights")
    given_files = {pictures.teacher.student: file, "resnet110": tmp_path / "of another run.pt"}
    job = pictures.job(tmp_path / "results", pictures.run("kd"), teacher_files=given_files)
    given = Relay(job.results).open(JobFiles.create(job).name, "gpu07")
    assert given.keys() == {"job.json", "teacher/teacher.pt"}
    assert Job.model_validate_json(given["job.json"]).teacher_files == {"resnet14": Path("teacher/teacher.pt")}


def test_a_run_that_another_process_trains_is_left_to_it(files: JobFiles, run_id: str, tmp_path: Path) -> None:
    with Leases(tmp_path) as leases:
        leases.take(run_id)
        assert Relay(tmp_path).open(files.name, "gpu07") == {}
    held, finished = files.new_events()
    assert isinstance(held, HeldEvent) and held.run == run_id and isinstance(finished, FinishedEvent)


def test_what_is_sent_twice_is_appended_once(files: JobFiles, tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    relay.open(files.name, "gpu07")
    for place, content in ((0, b"one\n"), (0, b"one\ntwo\n"), (4, b"two\n"), (8, b"three\n")):
        assert relay.append(files.name, "log", place, content)
    assert files.log.read_text() == "one\ntwo\nthree\n"


def test_a_node_whose_job_has_ended_for_its_command_writes_nothing_more(
    files: JobFiles, run_id: str, tmp_path: Path
) -> None:
    relay = Relay(tmp_path)
    relay.open(files.name, "gpu07")
    assert relay.keep(files.name, run_id, "checkpoint.pt", b"first")
    relay.close(files.name)
    assert Leases(tmp_path).holder(run_id) is None
    assert not relay.keep(files.name, run_id, "checkpoint.pt", b"second")
    assert not relay.append(files.name, "log", 0, b"words")
    assert (tmp_path / run_id / "checkpoint.pt").read_bytes() == b"first" and not files.log.exists()
    assert relay.open(files.name, "gpu07") == {} and Leases(tmp_path).holder(run_id) is None


def test_a_node_whose_run_was_taken_over_writes_nothing_more(
    files: JobFiles, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.records.leases.HEARTBEAT", 0.05)
    relay = Relay(tmp_path)
    relay.open(files.name, "gpu07")
    (lease,) = (tmp_path / run_id).glob("lease.*")
    lease.replace(lease.with_name("lease.2"))
    until = time.monotonic() + 30
    while relay.keep(files.name, run_id, "checkpoint.pt", b"old") and time.monotonic() < until:
        time.sleep(0.05)
    assert not relay.append(files.name, "log", 0, b"words")
    assert [type(event) for event in files.new_events()] == [HeldEvent]


def test_folders_that_killed_processes_left_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_mirror.tempfile, "tempdir", str(tmp_path))
    left, new = tmp_path / "kdbench-job-left", tmp_path / "kdbench-job-new"
    with temporary_folder() as used:
        for folder in (left, new):
            (folder / "runs").mkdir(parents=True)
        for folder in (left, used):
            os.utime(folder, (0, 0))
        with temporary_folder() as own:
            assert set(tmp_path.iterdir()) == {used, new, own}
    assert set(tmp_path.iterdir()) == {new}
