"""Jobs whose folder fails under them, and that a batch system starts again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from kdbench.engines.job_files import JobFiles
from kdbench.tasks.classification import ClassificationTask
from kdbench.train import job as module
from kdbench.train.events import Event, HeldEvent, InterruptedEvent, PhaseEvent
from kdbench.train.interruption import LOST_LEASE
from kdbench.train.job import Job
from tests.helpers.pictures import Pictures
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table


@pytest.fixture
def job(tmp_path: Path) -> Job:
    table = fixed_table("dist/coco")
    run = make_row(table, table.pairs[0], table.methods[0], "mini").run
    return Job(data_root=tmp_path, results=tmp_path / "runs", runs=(run,))


def loses_its_lease(job: Job, report: Callable[[Event], None], monkeypatch: pytest.MonkeyPatch) -> int:
    """The code with which a job ends whose lease another process takes over."""

    def leases(_: Path, lost: Callable[[str], None], __: Any) -> Any:
        return nullcontext(lost)

    def exit_with(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(module, "Leases", leases)
    monkeypatch.setattr(module, "claim", lambda runs, before, store, lost, *_: lost(runs[0].id))
    monkeypatch.setattr(module.os, "_exit", exit_with)
    with pytest.raises(SystemExit) as end:
        module._execute_claimed(job, report)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_lost_lease_is_told_as_an_interruption_of_the_others(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    assert loses_its_lease(job, events.append, monkeypatch) == LOST_LEASE
    assert events == [HeldEvent(run=job.runs[0].id, holder="another process"), InterruptedEvent()]


def test_a_job_that_loses_its_lease_ends_though_it_cannot_say_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Event) -> None:
        raise OSError(28, "No space left on device")

    assert loses_its_lease(job, full, monkeypatch) == LOST_LEASE


def test_a_line_that_an_earlier_start_left_half_written_hides_no_event(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = JobFiles.create(job)
    files.events.write_text('{"event": "ph')
    monkeypatch.setattr(sys, "argv", ["job", str(files.spec), str(files.events)])
    monkeypatch.setattr(module.interruption, "listen", lambda: None)
    monkeypatch.setattr(module, "_execute_claimed", lambda _, report: report(PhaseEvent(text="measuring")))
    module.main()
    assert files.new_events() == [PhaseEvent(text="measuring")]


def test_a_job_that_was_stopped_for_minutes_leaves_the_row_to_who_trains_the_run_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on within its evaluation, long before its next heartbeat, and writes nothing any more."""
    pictures = Pictures(tmp_path / "data")
    job = pictures.job(tmp_path / "runs", pictures.run())
    folder, measure = job.results / job.runs[0].id, ClassificationTask.measure

    def meanwhile_taken_over(*given: Any, **named: Any) -> Any:
        (folder / "lease.2").write_bytes(b"of another process")
        return measure(*given, **named)

    def exit_with(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(ClassificationTask, "measure", meanwhile_taken_over)
    monkeypatch.setattr(module.os, "_exit", exit_with)
    events: list[Event] = []
    with pytest.raises(SystemExit) as end:
        module._execute_claimed(job, events.append)
    assert end.value.code == LOST_LEASE and [event.event for event in events[-2:]] == ["held", "interrupted"]
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "lease.2", "student.pt"]
