"""The local engine: one process a job, a fixed number of jobs a device, teachers before their students."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..errors import StoreError
from ..records.row import Row, Status
from ..records.store import Store, write_atomically
from ..spec.run import Run
from ..spec.schema import digest
from ..train.job import Job, JobSettings
from ..train.result import row_without_result
from .base import FINISHED, PlannedJob
from .progress import Display, JobDisplay


class LocalEngine:
    """Runs the jobs of a plan on this machine.

    Args:
        settings: what all jobs have in common.
        slots: the device of each job that runs at a time; a device that is named twice takes two.
        timeout: seconds after which a job is stopped, its unfinished runs ending as `timeout`.
    """

    def __init__(self, settings: JobSettings, slots: Sequence[str], timeout: float | None = None) -> None:
        self.settings, self.slots, self.timeout = settings, list(slots), timeout
        self.store = Store(settings.results)
        self.lock = threading.Lock()
        self.processes: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def execute(self, jobs: Sequence[PlannedJob], runs: Sequence[Run]) -> list[Row]:
        """Run every job, those of teachers first; returns the rows of all `runs` of the plan that have one.

        Raises:
            StoreError: the results folder cannot be written or is in use by another command; nothing was started.
        """
        with self._locked():
            self._run_all(jobs, len(runs))
        rows = [self.store.row(run.id) for run in runs]
        return [row for row in rows if row is not None]

    def _run_all(self, jobs: Sequence[PlannedJob], total: int) -> None:
        waiting = [job for job in map(self._unfinished, jobs) if job.runs]
        running: dict[Future[None], tuple[PlannedJob, str]] = {}
        free = list(self.slots)
        display = Display(total, total - sum(len(job.runs) for job in waiting))
        with display, ThreadPoolExecutor(len(self.slots)) as pool:
            try:
                while waiting or running:
                    while free and (job := self._next(waiting, [job for job, _ in running.values()])):
                        waiting.remove(job)
                        device = free.pop(0)
                        future = pool.submit(self._guarded, list(job.runs), device, job.threads, display)
                        running[future] = job, device
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        free.append(running.pop(done)[1])
                        done.result()
            except BaseException:
                self._stop_all()
                raise

    def _unfinished(self, job: PlannedJob) -> PlannedJob:
        """The job without what another command has finished since the plan was made."""
        rows = {run.id: self.store.row(run.id) for run in job.runs}
        return replace(job, runs=tuple(run for run in job.runs if getattr(rows[run.id], "status", "") not in FINISHED))

    def _next(self, waiting: Sequence[PlannedJob], running: Sequence[PlannedJob]) -> PlannedJob | None:
        """The next job: of those whose teachers have ended, the one that most runs wait for or belong to.

        On a CPU no two jobs of one cohort run at a time: each has all of the cohort's threads.
        """
        unfinished = {run.id for job in (*waiting, *running) for run in job.runs}
        students = Counter(run.teacher.id for job in waiting for run in job.runs if run.teacher)
        busy = {job.cohort for job in running} if "cpu" in self.slots else set()
        ready = [
            job
            for job in waiting
            if job.cohort not in busy and not any(run.teacher and run.teacher.id in unfinished for run in job.runs)
        ]
        return max(ready, key=lambda job: sum(1 + students[run.id] for run in job.runs), default=None)

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
        progress = display.job(runs)
        try:
            status, reason = self._process(runs, device, threads, progress)
        finally:
            progress.close()
        if not self.stopped:  # a run that was interrupted has no result
            for run in filter(self._unrecorded, runs):
                self._record(run, status, reason, device, display)

    def _process(self, runs: list[Run], device: str, threads: int, progress: JobDisplay) -> tuple[Status, str]:
        """Run `kdbench.train.job`; returns status and reason of runs that it leaves without a row."""
        job = Job(**dict(self.settings), runs=tuple(runs), device=device)
        file = self.settings.results / "jobs" / f"{digest([run.id for run in runs])}.json"
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
                progress.update(event)
        if expired.is_set():
            return "timeout", f"stopped after {self.timeout:.0f} s; the same command resumes it from its checkpoint"
        if failure:
            return failure["status"], failure["reason"]
        if process.returncode == -signal.SIGKILL:
            return "out-of-memory", "the process was killed, most often for memory; try --cohort 1, or --workers 0"
        return "failed", f"the process ended with code {process.returncode} without a reason; see {log}"

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
        file = self.settings.results / ".lock"
        if not file.exists():
            write_atomically(file, b"")  # says what to do where the folder cannot be written
        try:
            with FileLock(file, timeout=0):
                yield
        except Timeout as error:
            raise StoreError(
                f"{self.settings.results} is in use by another kdbench run; wait for it, or choose another folder with "
                "--results"
            ) from error

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
