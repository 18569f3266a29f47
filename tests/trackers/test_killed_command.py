"""What trackers hold of a run whose command, and then whose job, was killed while it trained, and which was resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.command import jobs_environment
from tests.trackers.test_files import wandb_histories

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]

SHORT = ("batch_size=16", "epoch_steps=25", "epochs=8", "eval_every=2", "warmup_steps=2")
STEPS = sorted({*range(10, 201, 10), *range(25, 201, 25)})
EVALUATED = [50, 100, 150, 200]
COMMAND = (
    *("run", "dist/cifar100", "--pairs", "resnet56->resnet20", "--methods", "none", "--scale", "mini", "--seeds", "1"),
    *("--device", "cpu", "--jobs", "1", "--results", "runs", "--log", "tensorboard,wandb,mlflow"),
    *(f"--set={change}" for change in SHORT),
)


def start(folder: Path, data: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "WANDB"))}
    environment |= jobs_environment() | {"WANDB_MODE": "offline", "KDBENCH_DATA": str(data)}
    words = [sys.executable, "-m", "kdbench", *COMMAND]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)


def points(folder: Path) -> int:
    """Points that were logged so far."""
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("runs/*/events.jsonl"))


def job_of(command: int) -> int:
    """The process of the job of a command."""
    tasks = Path(f"/proc/{command}/task")
    children = [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    return next(each for each in children if b"kdbench.train.job" in Path(f"/proc/{each}/cmdline").read_bytes())


def kill_behind_a_checkpoint(folder: Path, data: Path, job: bool) -> None:
    """Start the command and kill it, or its job, once it has logged points that its checkpoint does not have."""
    began, process, before = time.time(), start(folder, data), None
    while before is None or points(folder) < before + 2:
        saved = [file for file in folder.glob("runs/*/checkpoint.pt") if file.stat().st_mtime > began]
        if saved and before is None:
            before = points(folder)
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.02)
    os.kill(job_of(process.pid) if job else process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, embedded_data: Path) -> Path:
    """A folder of runs, one of which was killed twice."""
    for library in ("tensorboard", "wandb", "mlflow"):
        pytest.importorskip(library)
    if not sys.platform.startswith("linux"):
        pytest.skip("the job's process is found in /proc")
    folder = tmp_path_factory.mktemp("killed")
    for job in (False, True):
        kill_behind_a_checkpoint(folder, embedded_data, job)
    assert start(folder, embedded_data).wait() == 0, (folder / "log").read_text()
    assert (folder / "log").read_text().count("resumed after step") == 2
    return folder


def is_every_step_once(steps: list[int]) -> bool:
    """Whether each is there, in order, and no other but where a job has saved because its command was killed."""
    return steps == sorted({*steps, *STEPS}) and len(steps) - len(STEPS) in (0, 1)


def test_tensorboard_has_every_point_once(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (files,) = folder.glob("runs/*/tensorboard")
    read = EventAccumulator(str(files))
    read.Reload()
    assert is_every_step_once([point.step for point in read.Scalars("loss/total")])
    assert [point.step for point in read.Scalars("val/top1")] == EVALUATED


def test_mlflow_has_one_run_with_every_point_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient((folder / "runs" / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("kdbench").experiment_id])
    assert run.info.status == "FINISHED"
    assert is_every_step_once([point.step for point in client.get_metric_history(run.info.run_id, "loss/total")])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val/top1")] == EVALUATED


def test_wandb_has_one_offline_run_with_every_point_once(folder: Path) -> None:
    assert len(list(folder.glob("runs/*/wandb/offline-run-*"))) == 1
    history = wandb_histories(folder / "runs")
    assert is_every_step_once([int(each["_step"]) for each in history if "loss/total" in each])
    assert [int(each["_step"]) for each in history if "val/top1" in each] == EVALUATED
