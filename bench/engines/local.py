"""Runs jobs on this machine: one process a job, a fixed number of jobs a device, a teacher before its students."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import StoreError
from ..grid.plan import Plan
from ..records.row import Row, Status
from ..records.store import Misfit, Store, read_row, write_atomically
from ..spec.run import Run
from ..spec.schema import digest
from ..train.job import Job, row_without_result
from .progress import Display, JobDisplay

FINISHED = ("done", "diverged")  # what is not tried again

Parts = Callable[[Sequence[Run]], Sequence[Sequence[Run]]]


class LocalEngine:
    """Carries out a plan.

    Args:
        job: what every job has in common; `runs` and `device` are filled in.
        devices: one job at a time on each; one that is named twice takes two.
        timeout: seconds after which a job is stopped, its unfinished runs ending as `timeout`.
        parts: what of a cohort is one job. The parts of one take turns on a CPU, each with all of its threads, because
            rounding depends on their number.
    """

    def __init__(
        self, job: Job, devices: Sequence[str], timeout: float | None = None, parts: Parts = lambda runs: [tuple(runs)]
    ) -> None:
        self.job, self.devices, self.timeout, self.parts = job, list(devices), timeout, parts
        self.store = Store(job.results)
        self.lock = threading.Lock()
        self.processes: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def finished(self, run: Run) -> bool:
        row = self.store.row(run.id)
        return row is not None and row.status in FINISHED

    def execute(self, plan: Plan) -> list[Row]:
        """Do all that is not finished; returns the rows of all runs of the plan that have one.

        Raises:
            StoreError: the results folder cannot be written, is in use by another command, or holds a file in place
                of a row that is none; nothing was started.
        """
        with self._locked():
            return self._execute(plan)

    def _execute(self, plan: Plan) -> list[Row]:
        self._check_rows(plan)
        threads = self.threads(plan)
        waiting, cohort = self._unfinished(plan)
        running: dict[Future[None], tuple[list[Run], str]] = {}
        free = list(self.devices)
        display = Display(len(plan.runs), len(plan.runs) - sum(map(len, waiting)))
        with display, ThreadPoolExecutor(len(self.devices)) as pool:
            try:
                while waiting or running:
                    while free and (runs := _next(waiting, [runs for runs, _ in running.values()], cohort)):
                        waiting.remove(runs)
                        device = free.pop(0)
                        running[pool.submit(self._guarded, runs, device, threads[runs[0].id], display)] = runs, device
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        free.append(running.pop(done)[1])
                        done.result()
            except BaseException:
                self._stop_all()
                raise
        rows = [self.store.row(run.id) for run in plan.runs]
        return [row for row in rows if row is not None]

    def threads(self, plan: Plan) -> dict[str, int]:
        """By run: jobs that share the CPU at a time share its cores, for more threads would wait for each other.

        Those of a stage do, and the later ones that wait for no teacher. The plan alone decides, not what of it is
        left: rounding depends on the number of threads.
        """
        slots = max(1, self.devices.count("cpu"))
        found: dict[str, int] = {}
        ready = 0  # cohorts of later stages that wait for nobody
        for stage in reversed(plan.stages):
            share = max(1, cores() // min(slots, len(stage) + ready))
            found |= {run.id: share for cohort in stage for run in cohort}
            ready += sum(not any(run.teacher for run in cohort) for cohort in stage)
        return found

    def _unfinished(self, plan: Plan) -> tuple[list[list[Run]], dict[str, int]]:
        """What is left of every cohort, in parts, and the cohort of runs whose parts take turns.

        A run that teaches and is a cell of its own too is its first cohort's alone.
        """
        taken: set[str] = set()
        waiting: list[list[Run]] = []
        turns: dict[str, int] = {}
        for number, cohort in enumerate(cohort for stage in plan.stages for cohort in stage):
            left = [run for run in cohort if run.id not in taken and not self.finished(run)]
            taken |= {run.id for run in left}
            waiting += [list(part) for part in (self.parts(left) if left else ())]
            if "cpu" in self.devices:
                turns |= {run.id: number for run in left}
        return waiting, turns

    def _guarded(self, runs: list[Run], device: str, threads: int, display: Display) -> None:
        """One job; whatever goes wrong in it is the status of its runs alone."""
        try:
            self._job(runs, device, threads, display)
        except Exception as error:  # noqa: BLE001 - it becomes the runs' status
            for run in filter(self._unrecorded, runs):
                self._record(run, "failed", f"{type(error).__name__}: {error}", device, display)

    def _job(self, runs: list[Run], device: str, threads: int, display: Display) -> None:
        """One cohort in one process; every run of it has a row afterwards."""
        if reason := self._teacher_missing(runs):
            ready = [run for run in runs if run.teacher is None]
            for run in runs:
                if run.teacher is not None:
                    self._record(run, "skipped", reason, device, display)
            runs = ready
        if not runs:
            return
        shown = display.job(runs)
        try:
            status, reason = self._process(runs, device, threads, shown)
        finally:
            shown.close()
        if not self.stopped:  # a run that was interrupted has no result
            for run in filter(self._unrecorded, runs):
                self._record(run, status, reason, device, display)

    def _process(self, runs: list[Run], device: str, threads: int, shown: JobDisplay) -> tuple[Status, str]:
        """Run `kdbench.train.job`; returns what to say of runs that it left without a row."""
        job = self.job.model_copy(update={"runs": tuple(runs), "device": device})
        file = self.job.results / "jobs" / f"{digest([run.id for run in runs])}.json"
        log = file.with_suffix(".log")
        write_atomically(file, job.model_dump_json(indent=1).encode())
        for run in runs:
            self.store.row_file(run.id).unlink(missing_ok=True)  # of an earlier try that failed
        command = [sys.executable, "-m", "kdbench.train.job", str(file)]
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"PYTHONUNBUFFERED": "1"}
        expired = threading.Event()
        failure: dict[str, Any] = {}
        with (
            log.open("w") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
            self._watched(process, expired),
        ):
            assert process.stdout is not None
            for line in process.stdout:
                event = _event(line)
                if event is None:
                    errors.write(line)  # of a library that prints past Python
                    continue
                if event["event"] == "error":
                    failure = event
                shown.show(event)
        if expired.is_set():
            return "timeout", f"stopped after {self.timeout:.0f} s; the same command goes on from where it was saved"
        if failure:
            return failure["status"], failure["reason"]
        if process.returncode == -signal.SIGKILL:
            return "out-of-memory", "the process was killed, most often for memory; try --cohort 1, or --workers 0"
        return "failed", f"the process ended with code {process.returncode} and no word; see {log}"

    @contextmanager
    def _watched(self, process: subprocess.Popen[str], expired: threading.Event) -> Iterator[None]:
        """Stop the process when its time is over or when the whole grid is stopped."""

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(self.timeout or 0, expire)
        if self.timeout:
            timer.start()
        with self.lock:
            self.processes.add(process)
            if self.stopped:  # while this one was starting
                process.terminate()
        try:
            yield
        finally:
            timer.cancel()
            with self.lock:
                self.processes.discard(process)

    def _record(self, run: Run, status: Status, reason: str, device: str, display: Display) -> None:
        event = {"status": status, "reason": reason, "metrics": {}}
        try:
            self.store.write(row_without_result(run, status, reason, torch.device(device)))
        except StoreError as error:
            event["reason"] = f"{reason}; and {error}"
        display.finished(run, event)

    def _unrecorded(self, run: Run) -> bool:
        return self.store.row(run.id) is None

    def _teacher_missing(self, runs: list[Run]) -> str:
        for run in runs:
            if run.teacher and not run.teacher_file:
                row = self.store.row(run.teacher.id)
                if row is None or row.status != "done":
                    how = f"ended as {row.status}: {row.reason}" if row else "has no result"
                    return f"its teacher {run.teacher.student} {how}"
        return ""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the results folder: two commands in one folder would train the same runs into the same files."""
        file = self.job.results / ".lock"
        if not file.exists():
            write_atomically(file, b"")
        with file.open("r+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError(
                    f"{self.job.results} is in use by another kdbench run; wait for it, or choose another folder with "
                    "--results"
                ) from error
            yield

    def _check_rows(self, plan: Plan) -> None:
        for run in plan.runs:
            file = self.store.row_file(run.id)
            found = read_row(file) if file.exists() else None
            if isinstance(found, Misfit):
                raise StoreError(f"{file} is no result row ({found.reason}); move it away and its run is done again")

    def _stop_all(self) -> None:
        with self.lock:
            self.stopped = True
            for process in self.processes:
                process.terminate()


def _event(line: str) -> dict[str, Any] | None:
    """The event in a line of a job's output; None for a line that is none, or not whole."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _next(waiting: Sequence[list[Run]], running: Sequence[list[Run]], turns: Mapping[str, int]) -> list[Run] | None:
    """The job to start next: of those whose teachers' runs have ended, the one that most runs wait for or belong to.

    Of runs that have one number in `turns`, no two jobs run at a time.
    """
    open_runs = {run.id for runs in (*waiting, *running) for run in runs}
    taught = Counter(run.teacher.id for runs in waiting for run in runs if run.teacher)
    busy = {turns[runs[0].id] for runs in running if runs[0].id in turns}
    ready = [
        runs
        for runs in waiting
        if turns.get(runs[0].id) not in busy and not any(run.teacher and run.teacher.id in open_runs for run in runs)
    ]
    return max(ready, key=lambda runs: sum(1 + taught[run.id] for run in runs), default=None)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_devices() -> list[str]:
    """Every CUDA device, or the CPU."""
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
