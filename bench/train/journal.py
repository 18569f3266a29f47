"""The points of a run in a file of its folder, so that whoever follows the run can lose none.

A job may be killed after its checkpoint is written and before what it reported has reached a tracker: no later attempt
trains these steps again. Their points are in the journal, which the job writes before it reports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..records.atomic import check, write_atomically, writing
from ..records.store import Store
from .events import EpochEvent, Event, Report, ResumedEvent, StepEvent, from_line, to_line

JOURNAL = "events.jsonl"


class Journal:
    """Receives the events of a job, keeps the points of each run, and passes all of them on.

    Args:
        store: of the runs' folders.
        report: receives the events next.

    Raises:
        StoreError: on a call, where a run's folder cannot be written.
    """

    def __init__(self, store: Store, report: Report) -> None:
        self.store, self.report = store, report
        self.begun: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Keep an event, and pass it on."""
        if isinstance(event, ResumedEvent):
            folder = self.store.folder(event.run)
            write_atomically(folder / JOURNAL, b"".join(map(_line, kept_events(folder, event.step))))
            self.begun.add(event.run)
        elif isinstance(event, StepEvent):
            for run, losses in event.losses.items():
                self._append(run, event.model_copy(update={"losses": {run: losses}}))
        elif isinstance(event, EpochEvent) and event.metrics:
            self._append(event.run, event)
        self.report(event)

    def _append(self, run: str, event: Event) -> None:
        file = self.store.folder(run) / JOURNAL
        with writing(file):
            check(file)
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab" if run in self.begun else "wb") as stream:
                stream.write(_line(event))
        self.begun.add(run)


def kept_events(folder: Path, last: int) -> Iterator[StepEvent | EpochEvent]:
    """The points in a run's folder up to a step; none without a journal, nor of a line that was not written whole."""
    try:
        lines = (folder / JOURNAL).read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        event = from_line(line)
        if isinstance(event, (StepEvent, EpochEvent)) and event.step <= last:
            yield event


def _line(event: Event) -> bytes:
    return to_line(event).encode() + b"\n"
