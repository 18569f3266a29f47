"""Trackers fed with the events of jobs, beside the training: what goes wrong in one is a warning and stops no run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from ..errors import StoreError
from ..records.atomic import write_atomically
from ..records.row import Row
from ..records.store import Store
from ..spec.run import Run
from ..text import counted
from ..trackers.base import Settings, Tracker
from ..train.claim import FINISHED, row_event
from ..train.events import EpochEvent, Event, ResumedEvent, RowEvent, StepEvent
from ..train.journal import JOURNAL, kept_events

PATIENCE = 120.0
"""Seconds that the end of a command waits for trackers to log what they were given."""

LOGGED = "logged.json"
"""File in a run's folder: by tracker, the time of the row that it has logged to its end."""


class Tracking:
    """The trackers of the runs that train, each run with one object of each class.

    They work in a thread of their own, in the order of the events. A run is tracked from its first step on.

    Args:
        classes: of the trackers.
        store: of the runs' rows.
        log_dir: where the user wants the trackers' files.
    """

    def __init__(self, classes: Sequence[type[Tracker]], store: Store, log_dir: Path | None) -> None:
        self.classes, self.store, self.log_dir = tuple(classes), store, log_dir
        self.runs: dict[str, Run] = {}
        self.name: Callable[[Run], str] = str
        self.warn: Callable[[str], None] = print
        self.resumed: dict[str, int] = {}
        self.last: dict[str, int] = {}  # step
        self.active: dict[str, list[Tracker]] = {}
        self.failed: Counter[type[Tracker]] = Counter()
        self.queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    @contextmanager
    def follow(self, runs: Iterable[Run], name: Callable[[Run], str], warn: Callable[[str], None]) -> Iterator[None]:
        """Track the runs of a plan; at the end trackers finish, and those of interrupted runs are closed.

        Args:
            runs: of the plan.
            name: of a run, as it is printed.
            warn: prints one line.
        """
        self.runs, self.name, self.warn = {run.id: run for run in runs}, name, warn
        thread = Thread(target=self._work, name="trackers", daemon=True)
        if self.classes:
            thread.start()
        try:
            yield
        finally:
            if self.classes:
                self._end(thread)

    def _end(self, thread: Thread) -> None:
        self.stopped(self.runs)
        self.queue.put(None)
        thread.join(PATIENCE)
        if thread.is_alive():
            self.warn(f"WARNING: trackers have not finished after {PATIENCE:.0f} s; the same command logs what is left")
        for tracker, count in self.failed.items():
            if count > 1:
                self.warn(f"WARNING: {tracker.__name__} has failed for {counted(count, 'run')}; their results are kept")

    def behind(self, runs: Iterable[Run]) -> list[Row]:
        """The rows of finished runs that a command followed which ended before its trackers had logged them."""
        kept = (run for run in runs if self.classes and (self.store.folder(run.id) / JOURNAL).exists())
        rows = (self.store.row(run.id) for run in kept)
        return [row for row in rows if row is not None and row.status in FINISHED and self._behind(row)]

    def catch_up(self, rows: Collection[Row]) -> None:
        """Log what finished runs have come to, with all their points."""
        if rows:
            self.warn(f"{counted(len(rows), 'finished run')} logged now, whose command ended before")
        for row in rows:
            self.queue.put(lambda row=row: self._catch_up(row))  # type: ignore[misc]

    def update(self, event: Event) -> None:
        """Pass on an event of a job."""
        if self.classes:
            self.queue.put(lambda: self._handle(event))

    def stopped(self, runs: Iterable[str]) -> None:
        """The process of some runs has ended: those that have no row of it were interrupted."""
        if self.classes:
            ids = tuple(runs)
            self.queue.put(lambda: self._stop(ids))

    def _work(self) -> None:
        while (task := self.queue.get()) is not None:
            task()

    def _handle(self, event: Event) -> None:
        if isinstance(event, ResumedEvent):
            self._stop([event.run])  # a batch system has started its job again
            self.resumed[event.run] = event.step
        elif isinstance(event, StepEvent):
            self._stop(run_id for run_id in event.losses if event.step <= self.last.get(run_id, 0))  # likewise
            for run_id in event.losses:
                self.last[run_id] = event.step
                self._each(run_id, lambda tracker, run_id=run_id: _log(tracker, run_id, event))  # type: ignore[misc]
        elif isinstance(event, EpochEvent) and event.metrics:
            self._each(event.run, lambda tracker: _log(tracker, event.run, event))
        elif isinstance(event, RowEvent):
            self._finish(event)

    def _finish(self, event: RowEvent) -> None:
        """Log a run's row; a run that neither trained nor was resumed is tracked only where it has a result."""
        row = self.store.row(event.run)
        tracked = event.run in self.active or event.run in self.resumed or event.status == "done"
        if row is not None and tracked:
            if row.metrics is not None:
                metrics, step = _named("val", row.metrics.last), row.steps
                self._each(event.run, lambda tracker: tracker.epoch(step, metrics))
            self._each(event.run, lambda tracker: tracker.finish(row))
        closed = self._stop([event.run])
        if row is not None and row.status in FINISHED and (self.store.folder(row.id) / JOURNAL).exists():
            self._note(row, closed)

    def _stop(self, runs: Iterable[str]) -> list[Tracker]:
        """Close the trackers of runs; returns those that are closed well."""
        closed = []
        for run_id in runs:
            closed += [each for each in self.active.pop(run_id, []) if self._call(run_id, each, each.close)]
            self.resumed.pop(run_id, None)
            self.last.pop(run_id, None)
        return closed

    def _behind(self, row: Row) -> list[type[Tracker]]:
        """The trackers that have not logged a row to its end."""
        logged = _logged(self.store.folder(row.id))
        return [kind for kind in self.classes if logged.get(kind.__name__) != row.finished]

    def _catch_up(self, row: Row) -> None:
        self.resumed[row.id] = row.steps
        self.active[row.id] = [made for kind in self._behind(row) if (made := self._start(row.id, kind))]
        self._finish(row_event(row))

    def _note(self, row: Row, closed: Iterable[Tracker]) -> None:
        folder = self.store.folder(row.id)
        logged = _logged(folder) | {type(tracker).__name__: row.finished for tracker in closed}
        try:
            write_atomically(folder / LOGGED, json.dumps(logged).encode())
        except StoreError as error:
            self.warn(f"WARNING: {error}; the same command logs the run again")

    def _each(self, run_id: str, action: Callable[[Tracker], None]) -> None:
        """Do something with every tracker of a run; those that fail follow it no longer."""
        if run_id not in self.active:
            self.active[run_id] = []
            self.active[run_id] = [tracker for kind in self.classes if (tracker := self._start(run_id, kind))]
        trackers = self.active[run_id]
        self.active[run_id] = [each for each in trackers if self._call(run_id, each, lambda each=each: action(each))]  # type: ignore[misc]

    def _start(self, run_id: str, kind: type[Tracker]) -> Tracker | None:
        run, resumed_at = self.runs[run_id], self.resumed.get(run_id)
        folder = self.store.folder(run_id)
        settings = Settings(self.name(run), folder, self.store.root, self.log_dir, resumed_at)
        tracker = kind()

        def start() -> None:
            tracker.start(run, settings)
            for event in kept_events(folder, resumed_at or 0):
                _log(tracker, run_id, event)

        return tracker if self._call(run_id, tracker, start) else None

    def _call(self, run_id: str, tracker: Tracker, action: Callable[[], None]) -> bool:
        """Whether it went well; the first failure of each kind of tracker is a warning."""
        kind = type(tracker)
        try:
            action()
        except Exception as error:  # noqa: BLE001 - it is a warning, and the run continues
            self.failed[kind] += 1
            if self.failed[kind] == 1:
                what = f"{type(error).__name__}: {error}"
                name = self.name(self.runs[run_id])
                self.warn(f"WARNING: {kind.__name__} has failed and follows {name} no longer: {what}")
            return False
        return True


def _logged(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / LOGGED).read_bytes())
    except (FileNotFoundError, ValueError):  # the run is logged again
        return {}
    return found if isinstance(found, dict) else {}


def _log(tracker: Tracker, run_id: str, event: StepEvent | EpochEvent) -> None:
    """Give a tracker the values of one run."""
    if isinstance(event, EpochEvent):
        tracker.epoch(event.step, _named("val", event.metrics))
        return
    losses = event.losses[run_id]
    shared = {"lr": event.lr, "images_per_second": event.images_per_second, "data_wait": event.data_wait}
    tracker.step(event.step, _named("loss", losses | {"total": sum(losses.values())}) | shared)


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}
