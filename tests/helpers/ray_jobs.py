"""Jobs on a Ray cluster, and a cluster of this process."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch

from kdbench.engines.driver import Driver
from kdbench.engines.job_files import JobFiles
from kdbench.engines.ray import RayEngine
from kdbench.records.leases import Leases
from kdbench.records.row import Row
from kdbench.spec.run import Run
from kdbench.train.events import StepEvent
from kdbench.train.job import execute as train
from tests.helpers.pictures import Pictures, done, short
from tests.helpers.slurm import wait_for


@contextmanager
def ray_cluster() -> Iterator[str]:
    """A cluster of two CPUs; its address. Sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=folder,
            _system_config={"worker_niceness": 0},  # else anything that runs beside the tests holds them up
        )
        try:
            yield str(ray.get_runtime_context().gcs_address)
        finally:
            ray.shutdown()


def driver(pictures: Pictures, results: Path, *runs: Run, timeout: float | None = None) -> Driver:
    """On the cluster of this process."""
    return Driver(RayEngine(None, ["cpu"] * 4, timeout=timeout), pictures.job(results, *runs).settings)


def long(pictures: Pictures, **more: Any) -> Run:
    """A run of some seconds."""
    return pictures.run(recipe=short(epochs=30), **more)


def undisturbed(pictures: Pictures) -> Row:
    """The row of `long`, trained in this process with one thread, which rounding depends on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (row,) = done(train(pictures.job(pictures.root / "undisturbed", long(pictures)), lambda _: None))
    torch.set_num_threads(threads)
    return row


def trains(results: Path, run: Run) -> int:
    """The process that holds a run's lease, once the run has trained some steps."""

    def number() -> int:
        for files in JobFiles.all(results):
            job = files.job()
            steps = [event for event in files.new_events() if isinstance(event, StepEvent) and event.step > 8]
            if (
                job
                and run.id in [each.id for each in job.runs]
                and steps
                and (holder := Leases(results).holder(run.id))
            ):
                return holder.process
        return 0

    return wait_for(number)
