"""The jobs of a plan, from the first to the last, on any engine: order, what others train, retries and rows.

Rows are the truth: what a job reports is shown, and its runs have ended when their rows are there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import StoreError
from ..records.by_name import FOLDER as BY_NAME
from ..records.by_name import link_runs
from ..records.leases import Holder, Leases
from ..records.row import Row, Status
from ..records.store import Store, Version
from ..spec.run import Run, variants
from ..text import counted
from ..trackers.base import Tracker
from ..train.claim import FINISHED, row_event, set_aside, settled
from ..train.events import Event, HeldEvent, RowEvent, StepEvent
from ..train.job import Job, JobSettings
from ..train.result import row_without_result
from .base import End, Engine, Handle, PlannedJob, Resources
from .leftovers import delete_leftovers
from .order import next_job
from .progress import Display, JobDisplay
from .tracking import Tracking

POLL = 2.0
"""Seconds between looks at what other commands train."""

ATTEMPTS = 3
"""That a run has without getting any further; the last one alone, for another of its cohort may be the reason."""

GRACE = 60.0
"""Seconds that cancelled jobs have to save their runs, before they are stopped."""


@dataclass
class _Running:
    """A job that was submitted.

    Attributes:
        job: what is left of the planned one.
        device: its slot.
        before: version of each run's row when it was submitted.
        display: its progress.
        reported: runs that have a row of this job, by what it says.
        held: runs that another process trains.
    """

    job: PlannedJob
    device: str
    before: Mapping[str, Version]
    display: JobDisplay
    reported: dict[str, RowEvent]
    held: set[str]


class Driver:
    """Executes plans on an engine, beside other commands and hosts that work on the same results folder.

    Args:
        engine: that trains the jobs.
        settings: what all jobs have in common.
        trackers: that log the runs.
        log_dir: where the user wants their files.
    """

    def __init__(
        self,
        engine: Engine,
        settings: JobSettings,
        trackers: Sequence[type[Tracker]] = (),
        log_dir: Path | None = None,
    ) -> None:
        self.engine, self.settings = engine, settings
        self.store = Store(settings.results)
        self.leases = Leases(settings.results)
        self.tracking = Tracking(trackers, self.store, log_dir)
        self.display = Display(0, 0)
        self.waiting: list[PlannedJob] = []
        self.elsewhere: list[PlannedJob] = []  # what other commands train
        self.running: dict[Handle, _Running] = {}
        self.news: list[tuple[Handle, Event | End]] = []  # that was polled
        self.free: list[str] = []
        self.broken: dict[str, str] = {}  # devices, and why
        self.before: dict[str, Version] = {}
        self.holders: dict[str, Holder] = {}
        self.attempts: Counter[str] = Counter()  # of a run since it last got further
        self.reached: dict[str, int] = {}  # last step that a run has reported
        self.ended: dict[str, tuple[Status, str, str]] = {}  # runs without a row that others hold: status, why, where
        self.unseen: set[str] = set()  # runs whose row was waited for in vain
        self.unlinked = False

    def execute(self, jobs: Sequence[PlannedJob], runs: Sequence[Run]) -> list[Row]:
        """Run every job, those of teachers first; returns the rows of all `runs` of the plan that have one.

        A run that another command trains is waited for. Trackers log the end of finished runs whose command had ended
        before it was logged.

        Raises:
            StoreError: the results folder cannot be written.
            EngineError: the engine does not take jobs.
        """
        planned = {run.id for job in jobs for run in job.runs}
        behind = self.tracking.behind(run for run in runs if run.id not in planned)
        if jobs or behind:
            self.display = Display(len(runs), len(runs) - len(planned), variants(runs))
            with self.tracking.follow(runs, self.display.name, self.display.log):
                self.tracking.catch_up(behind)
                try:
                    if jobs:
                        self._execute(jobs)
                finally:
                    self._link(runs)
        rows = [row for run in runs if (row := self.store.row(run.id)) is not None]
        delete_leftovers(self.store, self.leases, rows)
        return rows

    def _execute(self, jobs: Sequence[PlannedJob]) -> None:
        self.before = {run.id: self.store.version(run.id) for job in jobs for run in job.runs}
        self.waiting, self.elsewhere, self.free = list(jobs), [], list(self.engine.slots)
        with self.display, self.engine:
            try:
                looked = time.monotonic()
                while self.waiting or self.elsewhere or self.running:
                    self._start()
                    self.news += self.engine.poll(POLL)
                    while self.news:
                        self._receive(*self.news.pop(0))
                    if time.monotonic() - looked >= POLL:
                        self._look_elsewhere()
                        looked = time.monotonic()
            except BaseException:
                self._cancel_all()
                raise

    def _start(self) -> None:
        """Submit jobs while a device is free and one is ready."""
        if self.broken and not self.free and not self.running:
            self._give_up()
        while self.free and (job := self._next()):
            self.waiting.remove(job)
            job = self._without_teacherless(self._without_others(job))
            if job.runs:
                self._submit(job, self.free.pop(0))

    def _next(self) -> PlannedJob | None:
        running = [each.job for each in self.running.values()]
        return next_job(self.waiting, running, self.elsewhere, self.engine.slots)

    def _without_others(self, job: PlannedJob) -> PlannedJob:
        """A job without the runs that others have settled, and those that they train, which are waited for."""
        mine, held = [], []
        for run in job.runs:
            if holder := self.leases.holder(run.id):
                if self.holders.get(run.id) != holder:
                    self.display.log(f"{self.display.name(run)}: {holder} trains it; waiting for its result")
                self.holders[run.id] = holder
                held.append(run)
            elif row := settled(run, self.before[run.id], self.store):
                self.display.finished(run, row_event(row))
            elif ended := self.ended.pop(run.id, None):
                self._record(job, run, *ended)
            else:
                mine.append(run)
        if held:
            self.elsewhere.append(replace(job, runs=tuple(held)))
        return replace(job, runs=tuple(mine))

    def _without_teacherless(self, job: PlannedJob) -> PlannedJob:
        """A job without the runs whose teacher has no result; these end as skipped."""
        missing = {run.id: reason for run in job.runs if (reason := self._teacher_missing(run))}
        for run in job.runs:
            if run.id in missing:
                self._record(job, run, "skipped", missing[run.id], "cpu")
        return replace(job, runs=tuple(run for run in job.runs if run.id not in missing))

    def _teacher_missing(self, run: Run) -> str:
        """Why a run cannot be trained; empty where its teacher is there."""
        if run.teacher is None or run.teacher_file:
            return ""
        row = self._visible_row(run.teacher.id)
        if row is not None and row.status == "done":
            return ""
        how = f"ended as {row.status}: {row.reason}" if row else "has no result"
        if advice := self.store.irreplaceable(run.teacher.id):
            how = f"has no result: {advice}"
        return f"its teacher {run.teacher.student} {how}"

    def _visible_row(self, run_id: str, before: Version = None) -> Row | None:
        """The row that a run should have since `before`; on a network file system it may take a while to be seen."""
        until = time.monotonic() + (0.0 if run_id in self.unseen else self.engine.patience)
        while self.store.version(run_id) == before and not self.store.irreplaceable(run_id):
            if time.monotonic() >= until:
                self.unseen.add(run_id)
                break
            time.sleep(0.5)
        return self.store.row(run_id)

    def _submit(self, job: PlannedJob, device: str) -> None:
        before = {run.id: self.store.version(run.id) for run in job.runs}
        content = Job(
            **dict(self.settings),
            runs=job.runs,
            device=device,
            journal=bool(self.tracking.classes),
            stale={run.id: lease for run in job.runs if (lease := self.leases.stale_lease(run.id))},
            before=before,
            patience=self.engine.patience,
        )
        settings = self.settings
        resources = Resources(
            device, job.threads, settings.workers, settings.world_size, memory=job.memory, seconds=job.seconds
        )
        handle = self.engine.submit(content, resources)
        self.running[handle] = _Running(job, device, before, self.display.job(job.runs), {}, set())

    def _receive(self, handle: Handle, news: Event | End) -> None:
        running = self.running[handle]
        if isinstance(news, End):
            del self.running[handle]
            running.display.close()
            self._finish(running, news)
            return
        if isinstance(news, HeldEvent):
            running.held.add(news.run)
        elif isinstance(news, StepEvent):
            for run in news.losses:
                if news.step > self.reached.get(run, 0):
                    self.reached[run], self.attempts[run] = news.step, 0
        self._tell(running, news)

    def _tell(self, running: _Running, news: Event) -> None:
        """Show and track what a job reports; a job that was started again reports its earlier rows again."""
        if isinstance(news, RowEvent):
            if news.run in running.reported:
                return
            running.reported[news.run] = news
        running.display.update(news)
        self.tracking.update(news)

    def _finish(self, running: _Running, end: End) -> None:
        """What becomes of the runs of a job that has ended."""
        runs = running.job.runs
        self._set_aside(running.device, end)
        again = []
        crowded = self._crowded(running, end)
        for run in runs:
            if run in crowded or run.id in running.held or self._has_row(run, running):
                continue
            self.attempts[run.id] += 1
            if end.retry and self.attempts[run.id] < ATTEMPTS:
                again.append(run)
            else:
                tries = f", {self.attempts[run.id]} times without getting further" if end.retry else ""
                self._record(running.job, run, end.status, end.reason + tries, running.device)
        if end.broken and (self.free or self.running):
            again += self._unfinished_rows([run for run in runs if run not in again and run.id not in running.held])
        elif again:
            self.display.log(f"{end.status}: {end.reason}; {counted(len(again), 'run')} given to another job")
        again += crowded
        self.before |= {run.id: self.store.version(run.id) for run in again}
        last = [run for run in again if run in crowded or self.attempts[run.id] == ATTEMPTS - 1]
        parts = [tuple(run for run in again if run not in last), *((run,) for run in last)]
        self.waiting += [replace(running.job, runs=part) for part in parts if part]
        if held := tuple(run for run in runs if run.id in running.held):
            self.elsewhere.append(replace(running.job, runs=held))
        self.tracking.stopped([run.id for run in runs])
        self._link(runs)

    def _crowded(self, running: _Running, end: End) -> list[Run]:
        """Runs of a cohort that were out of memory: each is tried again alone, for alone it takes less."""
        runs = [run for run in running.job.runs if run.id not in running.held]
        reported = [run for run in runs if (row := running.reported.get(run.id)) and row.status == "out-of-memory"]
        rest = [run for run in runs if self.store.version(run.id) == running.before[run.id] and run not in reported]
        killed = rest if end.status == "out-of-memory" else []
        if len(running.job.runs) == 1 or not reported + killed:
            return []
        self.display.again(len(reported))
        self.display.log(f"out-of-memory in a cohort: {counted(len(reported + killed), 'run')} tried again alone")
        return reported + killed

    def _has_row(self, run: Run, running: _Running) -> bool:
        """Whether a job, or another process meanwhile, has left a row; one that was reported may not be seen yet."""
        if run.id in running.reported:
            self._visible_row(run.id, running.before[run.id])
            return True
        row = self.store.row(run.id)
        if row is None or self.store.version(run.id) == running.before[run.id]:
            return False
        self.display.finished(run, row_event(row))  # the job was killed before it could say so
        self.tracking.update(row_event(row))
        return True

    def _set_aside(self, device: str, end: End) -> None:
        """Free the slot of a job, or take all slots of its device away."""
        if end.broken and device not in self.broken:
            self.broken[device] = end.broken
            self.free = [each for each in self.free if each != device]
            self.display.log(f"{device} cannot be used any more and is set aside: {end.broken}")
        if device not in self.broken:
            self.free.append(device)

    def _unfinished_rows(self, runs: Sequence[Run]) -> list[Run]:
        """Runs that ended badly on a device that is broken; they are not blamed."""
        found = [run for run in runs if (row := self.store.row(run.id)) is not None and row.status not in FINISHED]
        if found:
            self.display.again(len(found))
        return found

    def _record(self, job: PlannedJob, run: Run, status: Status, reason: str, device: str) -> None:
        """Write the row of a run without a result, unless others have left one; first they give up its lease."""
        event = RowEvent(run=run.id, status=status, reason=reason, metrics={})
        try:
            if holder := self.leases.take(run.id):  # who has taken over, or the lost machine of the job itself
                ended = f"{self.display.name(run)}: {status}: {reason}"
                self.display.log(f"{ended}; {holder} holds its lease: recorded when that has ended without a result")
                self.holders[run.id], self.ended[run.id] = holder, (status, reason, device)
                self.elsewhere.append(replace(job, runs=(run,)))
                return
            if row := settled(run, self.before[run.id], self.store):
                event = row_event(row)
            else:
                if notice := set_aside(run, self.store):
                    self.display.log(notice)
                self.store.write(row_without_result(run, status, reason, device))
        except StoreError as error:
            event = event.model_copy(update={"reason": f"{reason}; and {error}"})
        finally:
            self.leases.release([run.id])
        self.display.finished(run, event)
        self.tracking.update(event)

    def _look_elsewhere(self) -> None:
        """Runs of other commands that have ended, or whose process has, are taken up again."""
        still: list[PlannedJob] = []
        for job in self.elsewhere:
            free = tuple(run for run in job.runs if self.leases.holder(run.id) is None)
            if free:
                self.waiting.append(replace(job, runs=free))
            if held := tuple(run for run in job.runs if run not in free):
                still.append(replace(job, runs=held))
        self.elsewhere = still

    def _give_up(self) -> None:
        """No device is left: what waits ends as failed, but for what others train or have finished."""
        errors = "; ".join(f"{device}: {error}" for device, error in self.broken.items())
        while self.waiting:
            job = self.waiting.pop(0)
            for run in self._without_others(job).runs:
                self._record(job, run, "failed", f"no device is left ({errors})", "cpu")

    def _cancel_all(self) -> None:
        """Stop every job; their runs have no result and are resumed. They have `GRACE` to save, or until a signal."""
        try:
            self._cancel(GRACE)
        except KeyboardInterrupt:
            self._cancel(5.0)
            raise
        if self.running:
            self._cancel(5.0)
        for each in self.running.values():
            self.display.log(f"{each.display.name}: its job has not ended; `kdbench status` shows whether it goes on")

    def _cancel(self, grace: float) -> None:
        self._hear_out()
        for handle in self.running:
            self.engine.cancel(handle)
        until = time.monotonic() + grace
        while self.running and time.monotonic() < until:
            self.news += self.engine.poll(0.2)
            self._hear_out()

    def _hear_out(self) -> None:
        """Take the news of jobs without recording how they end."""
        while self.news:
            handle, news = self.news.pop(0)
            if not isinstance(news, End):
                if handle in self.running:
                    self._tell(self.running[handle], news)
            elif ended := self.running.pop(handle, None):
                ended.display.close()

    def _link(self, runs: Sequence[Run]) -> None:
        """Link the folders of finished runs under their names; where that is impossible, it is logged once."""
        try:
            link_runs(self.store.root, {run.id: self.display.name(run) for run in runs if self.store.version(run.id)})
        except OSError as error:
            if not self.unlinked:
                self.display.log(
                    f"{self.store.root / BY_NAME}: no links by name ({error.strerror}); `kdbench runs` lists the runs"
                )
            self.unlinked = True
