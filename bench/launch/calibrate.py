"""Times the steps of a plan's jobs on this machine, and keeps the times for this and later plans."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from ..engines.base import PlannedJob
from ..engines.probe import visible_alone
from ..engines.process import THREADS
from ..records import environment
from ..records.calibration import FILE, Calibrated, add_calibration
from ..text import counted
from ..train.calibration import LEAST, MOST, Timing
from ..train.job import Job, JobSettings
from .cost import duration, steps_of
from .devices import machine as machine_of
from .estimates import key_of

Log = Callable[[str], None]


def calibrate(
    jobs: Sequence[PlannedJob],
    settings: JobSettings,
    device: str,
    stored: tuple[int, int],
    on_disk: bool,
    log: Log,
) -> None:
    """Time every kind of job once, and add the times to the results folder's calibration as they come.

    A kind that cannot be timed, such as one that does not fit into memory, is logged, and the others are timed.

    Args:
        jobs: of a plan.
        settings: what they have in common.
        device: that times them.
        stored: height and width of images that are held as arrays, pixels.
        on_disk: whether the data is; batches are made up where it is not.
        log: receives a line for each kind of job.

    Raises:
        StoreError: the results folder cannot be written, or has a calibration that cannot be read.
    """
    machine = environment.shared_machine(machine_of(device), settings.world_size)
    kinds: dict[str, PlannedJob] = {}
    for job in jobs:
        if max(map(steps_of, job.runs)) > 0:
            kinds.setdefault(key_of(job.runs, machine, job.threads if device == "cpu" else 1), job)
    if not kinds:
        log("calibration: no job is left to be timed")
        return
    batches = "on the data" if on_disk else "on made-up batches, for the data is not on disk"
    log(f"calibration: {counted(len(kinds), 'kind')} of jobs, {LEAST} to {MOST} steps each, {batches}; on {machine}")
    begin, measured = time.monotonic(), _time(kinds, settings, device, stored, on_disk, log)
    took = duration(time.monotonic() - begin)
    log(f"  timed {measured} of {len(kinds)} in {took}; kept in {settings.results / FILE}")


def _time(
    kinds: Mapping[str, PlannedJob],
    settings: JobSettings,
    device: str,
    stored: tuple[int, int],
    on_disk: bool,
    log: Log,
) -> int:
    """Time one job of each kind; returns how many could be timed."""
    machine = environment.shared_machine(machine_of(device), settings.world_size)
    described = environment.describe(device)
    name, visible = visible_alone(device)
    timings = [
        Timing(
            job=Job(**dict(settings), runs=job.runs, device=name),
            threads=job.threads,
            synthetic=not on_disk,
            stored=stored,
        )
        for job in kinds.values()
    ]
    measured = 0
    for key, timing, result in zip(
        kinds, timings, _results(timings, THREADS | dict(os.environ) | visible), strict=True
    ):
        what = _words(kinds[key])
        if "error" in result:
            log(f"  {what}: not timed: {result['error']}")
            continue
        seconds, steps = result["seconds"], result["steps"]
        log(f"  {what}: {1000 * seconds:,.1f} ms a step")
        entry = Calibrated(
            what=what,
            machine=machine,
            step_seconds=seconds,
            steps=steps,
            synthetic=timing.synthetic,
            commit=described.commit,
            libraries=described.libraries,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        add_calibration(settings.results, {key: entry})
        measured += 1
    return measured


def _words(job: PlannedJob) -> str:
    """Networks, methods and precision of a job."""
    run = job.runs[0]
    teacher = f"{run.teacher_network} -> " if run.teacher_network else ""
    students = ", ".join(dict.fromkeys(each.student for each in job.runs))
    methods = ", ".join(each.method for each in job.runs)
    threads = "" if job.threads == 1 else f", {job.threads} threads"
    return f"{teacher}{students} {methods} ({run.recipe.precision}{threads})"


def _results(timings: Sequence[Timing], variables: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The result of each timing, in order; a process that ends early costs the one that it was at."""
    command = [sys.executable, "-m", "kdbench.train.calibration"]
    left = list(timings)
    while left:
        with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as given:
            given.write(TypeAdapter(list[Timing]).dump_json(left).decode())
            given.seek(0)
            with subprocess.Popen(
                command, stdin=given, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith("{"):
                        yield json.loads(line)
                        left.pop(0)
            if left:
                errors.seek(0)
                last = (errors.read().strip().splitlines() or [""])[-1]
                yield {"error": f"its process ended with code {process.returncode} {last}".rstrip()}
                left.pop(0)
