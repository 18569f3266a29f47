"""What a job takes over of its runs, with other processes at work on the same folder."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from kdbench.errors import StoreError
from kdbench.records.leases import Leases
from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.train import claim as module
from kdbench.train.claim import claim
from kdbench.train.events import Event, HeldEvent, NoticeEvent, RowEvent
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table


@pytest.fixture
def rows() -> list[Row]:
    table = fixed_table("dist/coco")
    return [make_row(table, table.pairs[0], entry, "mini") for entry in table.methods[:3]]


def claimed(rows: list[Row], root: Path, patience: float = 0.0) -> tuple[list[str], list[Event]]:
    """Runs that are to be trained, of a job that was made when nothing was finished, and what was reported."""
    events: list[Event] = []
    mine = claim([row.run for row in rows], {}, Store(root), Leases(root), events.append, patience)
    return [run.id for run in mine], events


def test_a_job_trains_what_is_neither_held_nor_finished_since(rows: list[Row], tmp_path: Path) -> None:
    held, finished, free = rows
    other = Leases(tmp_path)
    other.take(held.id)
    Store(tmp_path).write(finished)
    mine, events = claimed(rows, tmp_path)
    assert mine == [free.id]
    assert events[0] == HeldEvent(run=held.id, holder=str(other.me))
    assert isinstance(events[1], RowEvent) and (events[1].run, events[1].status) == (finished.id, "done")
    assert Leases(tmp_path).holder(finished.id) is None and Leases(tmp_path).holder(free.id) is not None


def test_a_failure_of_before_is_tried_again_and_one_since_is_not(rows: list[Row], tmp_path: Path) -> None:
    store, run = Store(tmp_path), rows[0].run
    store.write(rows[0].model_copy(update={"status": "failed", "metrics": None, "reason": "of theirs"}))
    events: list[Event] = []
    assert claim([run], {run.id: store.version(run.id)}, store, Leases(tmp_path), events.append) == [run]
    assert claim([run], {}, store, Leases(tmp_path / "elsewhere"), events.append) == []
    assert [event.event for event in events] == ["row"]


def test_a_damaged_row_is_set_aside_under_the_lease(rows: list[Row], tmp_path: Path) -> None:
    file = Store(tmp_path).write(rows[0])
    file.write_bytes(file.read_bytes()[:-50])
    mine, events = claimed(rows[:1], tmp_path)
    assert mine == [rows[0].id] and isinstance(events[0], NoticeEvent) and "set aside" in events[0].text
    assert file.with_name("row.damaged.json").exists() and not file.exists()


def test_a_lease_that_is_given_up_in_time_is_waited_for(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.05)
    other = Leases(tmp_path)
    other.take(rows[0].id)

    def release() -> None:
        time.sleep(0.3)
        other.release([rows[0].id])

    thread = threading.Thread(target=release)
    thread.start()
    assert claimed(rows[:1], tmp_path, patience=60.0) == ([rows[0].id], [])
    thread.join()


def test_a_row_of_another_version_stays_and_its_run_is_not_trained(rows: list[Row], tmp_path: Path) -> None:
    file = Store(tmp_path).row_file(rows[0].id)
    file.parent.mkdir()
    file.write_text('{"schema_version": 99}')
    mine, events = claimed(rows[:2], tmp_path)
    assert mine == [rows[1].id] and Leases(tmp_path).holder(rows[0].id) is None
    (event,) = events
    assert isinstance(event, RowEvent) and event.status == "failed" and "99" in event.reason
    assert event.reason.endswith("move it away and its run is done again")
    assert [path.name for path in file.parent.iterdir()] == ["row.json"]
    with pytest.raises(StoreError, match="move it away"):
        Store(tmp_path).write(rows[0])
    assert file.read_text() == '{"schema_version": 99}'
