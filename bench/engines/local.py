"""The local engine: one process a job, a fixed number of jobs a device, teachers before their students."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..errors import StoreError
from ..records.by_name import FOLDER as BY_NAME
from ..records.by_name import link_runs
from ..records.row import Row, Status
from ..records.stale import has_old_teacher, is_stale, trained_weights
from ..records.store import InvalidRow, Store, Version, write_atomically
from ..spec.run import Run, variants
from ..spec.schema import digest
from ..trackers.base import Tracker
from ..train.checkpointing import CHECKPOINT
from ..train.checkpointing import delete as delete_checkpoints
from ..train.events import ErrorEvent, RowEvent, from_line
from ..train.job import WITH_PARENT, Job, JobSettings
from ..train.result import row_without_result
from .base import FINISHED, PlannedJob
from .leases import Holder, Leases
from .probe import probe_now
from .progress import Display, JobDisplay
from .tracking import Tracking

POLL = 2.0
"""Seconds between looks at what other commands train."""

DAMAGED_ROW = "row.damaged.json"

THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads of a job sleep while they wait for each other. By default they keep their core busy: beside other programs a
step of two threads then took 5 to 15 times as long."""


class LocalEngine:
    """Runs the jobs of a plan on this machine, beside other commands that work on the same results folder.

    Args:
        settings: what all jobs have in common.
        slots: the device of each job that runs at a time; a device that is named twice takes two.
        timeout: seconds after which a job is stopped, its unfinished runs ending as `timeout`.
        trackers: that log the runs.
        log_dir: where the user wants their files.
    """

    def __init__(
        self,
        settings: JobSettings,
        slots: Sequence[str],
        timeout: float | None = None,
        trackers: Sequence[type[Tracker]] = (),
        log_dir: Path | None = None,
    ) -> None:
        self.settings, self.slots, self.timeout = settings, list(slots), timeout
        self.store = Store(settings.results)
        self.tracking = Tracking(trackers, self.store, log_dir)
        self.lock = threading.Lock()
        self.processes: dict[subprocess.Popen[str], list[Run]] = {}
        self.stopped = False
        self.lost: set[str] = set()
        self.unlinked = False

    def execute(self, jobs: Sequence[PlannedJob], runs: Sequence[Run]) -> list[Row]:
        """Run every job, those of teachers first; returns the rows of all `runs` of the plan that have one.

        A run that another command trains is waited for.

        Raises:
            StoreError: the results folder cannot be written.
        """
        if jobs:
            with Leases(self.settings.results, self._stop_lost) as leases:
                done = len(runs) - sum(len(job.runs) for job in jobs)
                display = Display(len(runs), done, variants(runs))
                with self.tracking.follow(runs, display.name, display.log):
                    try:
                        _Grid(self, leases, display).run(jobs)
                    finally:
                        self._link(runs, display)
        rows = [row for run in runs if (row := self.store.row(run.id)) is not None]
        self._delete_leftovers(rows)
        return rows

    def _link(self, runs: Sequence[Run], display: Display) -> None:
        """Link the folders of finished runs under their names; where that is impossible, it is logged once."""
        try:
            link_runs(self.store.root, {run.id: display.name(run) for run in runs if self.store.version(run.id)})
        except OSError as error:
            if not self.unlinked:
                display.log(
                    f"{self.store.root / BY_NAME}: no links by name ({error.strerror}); `kdbench runs` lists the runs"
                )
            self.unlinked = True

    def _delete_leftovers(self, rows: Sequence[Row]) -> None:
        """Delete checkpoints and leases of finished runs that were killed before they did so."""
        leases = Leases(self.settings.results)
        for row in rows:
            folder = self.store.folder(row.run.id)
            if row.status == "done" and not leases.is_held(row.run.id):
                with suppress(OSError):  # in a folder that cannot be written they can stay
                    leases.delete_stale(row.run.id)
                    if (folder / CHECKPOINT).exists():
                        delete_checkpoints(folder)

    def _next(
        self, waiting: Sequence[PlannedJob], running: Sequence[PlannedJob], elsewhere: Sequence[PlannedJob] = ()
    ) -> PlannedJob | None:
        """The next job: of those whose teachers have ended, the one that most runs wait for or belong to.

        On a CPU no two jobs of one cohort run at a time: each has all of the cohort's threads.
        """
        unfinished = {run.id for job in (*waiting, *running, *elsewhere) for run in job.runs}
        students = Counter(run.teacher.id for job in waiting for run in job.runs if run.teacher)
        busy = {job.cohort for job in running} if "cpu" in self.slots else set()
        ready = [
            job
            for job in waiting
            if job.cohort not in busy and not any(run.teacher and run.teacher.id in unfinished for run in job.runs)
        ]
        return max(ready, key=lambda job: sum(1 + students[run.id] for run in job.runs), default=None)

    def guarded(self, runs: list[Run], device: str, threads: int, display: Display) -> str:
        """One job; whatever goes wrong in it is the status of its runs alone. Returns why the device failed, if so."""
        before = {run.id: self.store.version(run.id) for run in runs}
        try:
            self._job(runs, device, threads, display)
        except Exception as error:  # noqa: BLE001 - it becomes the runs' status
            for run in self._unrecorded(runs, before):
                self._record(run, "failed", f"{type(error).__name__}: {error}", device, display)
        self.tracking.stopped([run.id for run in runs])
        self._link(runs, display)
        new = [row for row in self._rows(runs) if row and self.store.version(row.run.id) != before[row.run.id]]
        if device == "cpu" or self.stopped or all(row.status in (*FINISHED, "skipped") for row in new):
            return ""
        return probe_now(device).error

    def _job(self, runs: list[Run], device: str, threads: int, display: Display) -> None:
        """One cohort in one process; every run of it has a new row afterwards."""
        before = {run.id: self.store.version(run.id) for run in runs}
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
            for run in self._unrecorded(runs, before):
                self._record(run, status, reason, device, display)

    def _process(self, runs: list[Run], device: str, threads: int, progress: JobDisplay) -> tuple[Status, str]:
        """Run `kdbench.train.job`; returns status and reason of runs that it leaves without a row."""
        job = Job(**dict(self.settings), runs=tuple(runs), device=device, journal=bool(self.tracking.classes))
        file = self.settings.results / "jobs" / f"{digest([run.id for run in runs])}.json"
        log = file.with_suffix(".log")
        write_atomically(file, job.model_dump_json(indent=1).encode())
        command = [sys.executable, "-m", "kdbench.train.job", str(file), WITH_PARENT]
        environment = THREADS | {"OMP_NUM_THREADS": str(threads)} | os.environ | {"PYTHONUNBUFFERED": "1"}
        expired = threading.Event()
        failure: ErrorEvent | None = None
        with (
            log.open("w") as errors,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            ) as process,
            self._watched(process, runs, expired),
        ):
            assert process.stdout is not None
            for line in process.stdout:
                event = from_line(line)
                if event is None:
                    errors.write(line)  # of a library that prints past Python
                    continue
                if isinstance(event, ErrorEvent):
                    failure = event
                progress.update(event)
                self.tracking.update(event)
        if expired.is_set():
            return "timeout", f"stopped after {self.timeout:.0f} s; the same command resumes it from its checkpoint"
        if failure:
            return failure.status, failure.reason
        if process.returncode == -signal.SIGKILL:
            return "out-of-memory", "the process was killed, most often for memory; try --cohort 1, or --workers 0"
        return "failed", f"the process ended with code {process.returncode} without a reason; see {log}"

    @contextmanager
    def _watched(self, process: subprocess.Popen[str], runs: list[Run], expired: threading.Event) -> Iterator[None]:
        """Stop the process when its time is over or when the whole grid is stopped."""

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(self.timeout or 0, expire)
        if self.timeout:
            timer.start()
        with self.lock:
            self.processes[process] = runs
            if self.stopped:  # while this one was starting
                process.terminate()
        try:
            yield
        finally:
            timer.cancel()
            with self.lock:
                self.processes.pop(process, None)

    def _record(self, run: Run, status: Status, reason: str, device: str, display: Display) -> None:
        event = RowEvent(run=run.id, status=status, reason=reason, metrics={})
        try:
            self.store.write(row_without_result(run, status, reason, device))
        except StoreError as error:
            event = event.model_copy(update={"reason": f"{reason}; and {error}"})
        display.finished(run, event)
        self.tracking.update(event)

    def _unrecorded(self, runs: Sequence[Run], before: Mapping[str, Version]) -> list[Run]:
        """Runs whose row is still what it was; of a run that another process has taken over, none is missing."""
        versions = {run.id: self.store.version(run.id) for run in runs if run.id not in self.lost}
        return [run for run in runs if run.id in versions and versions[run.id] == before[run.id]]

    def _rows(self, runs: Sequence[Run]) -> list[Row | None]:
        return [self.store.row(run.id) for run in runs]

    def _teacher_missing(self, runs: list[Run]) -> str:
        for run in runs:
            if run.teacher and not run.teacher_file:
                row = self.store.row(run.teacher.id)
                if row is None or row.status != "done":
                    how = f"ended as {row.status}: {row.reason}" if row else "has no result"
                    return f"its teacher {run.teacher.student} {how}"
        return ""

    def _stop_lost(self, run_id: str) -> None:
        """Stop the job of a run that another process has taken over."""
        with self.lock:
            self.lost.add(run_id)
            for process, runs in self.processes.items():
                if run_id in [run.id for run in runs]:
                    process.terminate()

    def stop_all(self) -> None:
        with self.lock:
            self.stopped = True
            for process in self.processes:
                process.terminate()


class _Grid:
    """The jobs of a plan, from the first to the last."""

    def __init__(self, engine: LocalEngine, leases: Leases, display: Display) -> None:
        self.engine, self.leases, self.display, self.store = engine, leases, display, engine.store
        self.waiting: list[PlannedJob] = []
        self.elsewhere: list[PlannedJob] = []  # what other commands train
        self.running: dict[Future[str], tuple[PlannedJob, str]] = {}
        self.free = list(engine.slots)
        self.failed_devices: dict[str, str] = {}
        self.before: dict[str, Version] = {}
        self.holders: dict[str, Holder] = {}

    def run(self, jobs: Sequence[PlannedJob]) -> None:
        self.before = {run.id: self.store.version(run.id) for job in jobs for run in job.runs}
        self.waiting = list(jobs)
        with self.display, ThreadPoolExecutor(len(self.engine.slots)) as pool:
            try:
                while self.waiting or self.elsewhere or self.running:
                    self._start(pool)
                    if self.running:
                        done = wait(self.running, POLL if self.elsewhere else None, FIRST_COMPLETED).done
                        for future in done:
                            self._finish(future)
                    elif self.elsewhere:
                        time.sleep(POLL)
                    self._look_elsewhere()
            except BaseException:
                self.engine.stop_all()
                raise

    def _start(self, pool: ThreadPoolExecutor) -> None:
        """Start jobs while a device is free and one is ready."""
        if self.failed_devices and not self.free and not self.running:
            self._give_up()
        while self.free and (
            job := self.engine._next(self.waiting, [job for job, _ in self.running.values()], self.elsewhere)
        ):
            self.waiting.remove(job)
            mine, held = self._take(job)
            if held.runs:
                self.elsewhere.append(held)
            if mine.runs:
                device = self.free.pop(0)
                future = pool.submit(self.engine.guarded, list(mine.runs), device, mine.threads, self.display)
                self.running[future] = mine, device

    def _take(self, job: PlannedJob) -> tuple[PlannedJob, PlannedJob]:
        """The runs of a job whose leases are held here now, and those of other commands; settled ones are in none."""
        mine, held = [], []
        for run in job.runs:
            if holder := self.leases.take(run.id):
                if self.holders.get(run.id) != holder:
                    self.display.log(f"{self.display.name(run)}: {holder} trains it; waiting for its result")
                self.holders[run.id] = holder
                held.append(run)
            elif self._is_settled(run):
                self.leases.release([run.id])
            else:
                self._set_aside(run)
                mine.append(run)
        return replace(job, runs=tuple(mine)), replace(job, runs=tuple(held))

    def _is_settled(self, run: Run) -> bool:
        """Whether another command has left a row since the plan was made."""
        row = self.store.row(run.id)
        current = row is not None and row.status in FINISHED and not is_stale(row) and not self._has_old_teacher(row)
        if row is None or (not current and self.store.version(run.id) == self.before[run.id]):
            return False
        metrics = row.metrics.last if row.metrics else {}
        self.display.finished(run, RowEvent(run=run.id, status=row.status, reason=row.reason, metrics=metrics))
        return True

    def _has_old_teacher(self, row: Row) -> bool:
        teacher = self.engine.store.row(row.run.teacher.id) if row.run.teacher else None
        return teacher is not None and has_old_teacher(row, trained_weights([teacher]))

    def _set_aside(self, run: Run) -> None:
        """Keep a damaged row under another name; its run is done again."""
        found = self.store.read(run.id)
        if isinstance(found, InvalidRow):
            found.path.replace(found.path.with_name(DAMAGED_ROW))
            self.display.log(f"{found.path}: {found.reason}; it was set aside as {DAMAGED_ROW}")
            self.before[run.id] = None

    def _finish(self, future: Future[str]) -> None:
        job, device = self.running.pop(future)
        error = future.result()
        self.leases.release([run.id for run in job.runs])
        if error and device not in self.failed_devices:
            self.failed_devices[device] = error
            self.free = [each for each in self.free if each != device]
            self.display.log(f"{device} cannot be used any more and is set aside: {error}")
        if device not in self.failed_devices:
            self.free.append(device)
            return
        if self.free or self.running:
            again = [
                run
                for run, row in zip(job.runs, self.engine._rows(job.runs), strict=True)
                if row is None or row.status not in FINISHED
            ]
            self.before |= {run.id: self.store.version(run.id) for run in again}
            if again:
                self.display.again(len(again))
                self.waiting.append(replace(job, runs=tuple(again)))

    def _look_elsewhere(self) -> None:
        """Jobs of other commands that have ended, or whose process has, are taken up again."""
        still: list[PlannedJob] = []
        for job in self.elsewhere:
            free = tuple(run for run in job.runs if not self.leases.is_held(run.id))
            if free:
                self.waiting.append(replace(job, runs=free))
            if held := tuple(run for run in job.runs if run not in free):
                still.append(replace(job, runs=held))
        self.elsewhere = still

    def _give_up(self) -> None:
        """No device is left: what waits ends as failed."""
        errors = "; ".join(f"{device}: {error}" for device, error in self.failed_devices.items())
        for job in (*self.waiting, *self.elsewhere):
            for run in job.runs:
                self.engine._record(run, "failed", f"no device is left ({errors})", "cpu", self.display)
        self.waiting, self.elsewhere = [], []
