"""Which runs of a job this process trains: those that no other holds, and that nobody has finished since."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from ..records.atomic import writing
from ..records.leases import Holder, Leases
from ..records.row import Row
from ..records.stale import has_old_teacher, is_stale, trained_weights
from ..records.store import InvalidRow, Store, Version
from ..spec.run import Run
from .events import HeldEvent, NoticeEvent, Report, RowEvent

FINISHED = ("done", "diverged")
"""Statuses of runs that are not tried again."""

DAMAGED_ROW = "row.damaged.json"

AGAIN = 2.0
"""Seconds between tries to take a lease."""


def claim(
    runs: Sequence[Run],
    before: Mapping[str, Version],
    store: Store,
    leases: Leases,
    report: Report,
    patience: float = 0.0,
) -> list[Run]:
    """Take the leases of runs; returns those that are to be trained here. A damaged row is set aside.

    Args:
        runs: of the job.
        before: version of each run's row when the job was made.
        store: of the rows.
        leases: of this process.
        report: receives a `HeldEvent` for each run that another process trains, a `RowEvent` for one that is finished
            or whose row is of another version, which stays.
        patience: seconds to wait for leases: the process that held one may have ended with its machine.

    Raises:
        StoreError: the results folder cannot be written.
    """
    mine = []
    until = time.monotonic() + patience
    for run in runs:
        if holder := _take(run, leases, until):
            report(HeldEvent(run=run.id, holder=str(holder)))
        elif row := settled(run, before.get(run.id), store):
            leases.release([run.id])
            report(row_event(row))
        elif advice := store.irreplaceable(run.id):
            leases.release([run.id])
            report(RowEvent(run=run.id, status="failed", reason=advice, metrics={}))
        else:
            if notice := set_aside(run, store):
                report(NoticeEvent(run=run.id, text=notice))
            mine.append(run)
    return mine


def settled(run: Run, before: Version, store: Store) -> Row | None:
    """The row that another process has left since the job was made, so that nothing is to be done."""
    row = store.row(run.id)
    if row is None:
        return None
    current = row.status in FINISHED and not is_stale(row) and not _has_old_teacher(row, store)
    return row if current or store.version(run.id) != before else None


def row_event(row: Row) -> RowEvent:
    """A row as an event."""
    return RowEvent(run=row.id, status=row.status, reason=row.reason, metrics=row.metrics.last if row.metrics else {})


def set_aside(run: Run, store: Store) -> str:
    """Keep a damaged row under another name, for its run is done again; returns words, empty where none is damaged."""
    found = store.read(run.id)
    if not isinstance(found, InvalidRow) or not found.damaged:
        return ""
    with writing(found.path):
        found.path.replace(found.path.with_name(DAMAGED_ROW))
    return f"{found.path}: {found.reason}; it was set aside as {DAMAGED_ROW}"


def _take(run: Run, leases: Leases, until: float) -> Holder | None:
    while (holder := leases.take(run.id)) and time.monotonic() < until:
        time.sleep(AGAIN)
    return holder


def _has_old_teacher(row: Row, store: Store) -> bool:
    teacher = store.row(row.run.teacher.id) if row.run.teacher else None
    return teacher is not None and has_old_teacher(row, trained_weights([teacher]))
