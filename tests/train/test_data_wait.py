"""The warning where a training waits for its data."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.records.store import read_row
from kdbench.train import data_wait
from kdbench.train.data_wait import Waiting
from kdbench.train.events import Event, StepEvent, WarningEvent
from kdbench.train.job import execute
from kdbench.train.timing import Waited


class Task:
    def __init__(self, workers: int, reads_files: bool = True) -> None:
        self.workers, self.reads_files = workers, reads_files

    def faster_loading(self) -> str:
        return "give it more with --workers"


def test_it_is_said_once_with_what_to_do_after_a_minute_above_a_tenth() -> None:
    waiting, task = Waiting(), Task(workers=2)
    assert waiting.advice(Waited([9.0], 30.0), task) == ""  # after half a minute
    advice = waiting.advice(Waited([6.0], 30.0), task)
    assert advice == (
        "training waits for data in 25% of its time: 2 loader processes prepare the images; give it more with --workers"
    )
    assert waiting.advice(Waited([30.0], 30.0), task) == ""
    assert "are prepared between the steps" in Waiting().advice(Waited([30.0], 60.0), Task(workers=0))
    assert Waiting().advice(Waited([6.0], 60.0), task) == ""
    assert Waiting().advice(Waited([30.0], 60.0), Task(0, reads_files=False)) == ""  # made on the device


def test_progress_and_row_of_a_job_say_how_long_it_waited(
    make_run: Any, make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_wait, "ENOUGH", 0.0)
    monkeypatch.setattr(data_wait, "LONG_WAIT", 0.0)
    job = make_job(make_run("none"))
    events: list[Event] = []
    (row,) = execute(job, events.append)
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert steps and all(0 < event.data_wait < 1 for event in steps)
    warnings = [event.text for event in events if isinstance(event, WarningEvent)]
    assert len(warnings) == 1 and ("--workers" in warnings[0] or "--cohort" in warnings[0])
    again = read_row(job.results / row.id / "row.json")
    assert row == again and row.cost is not None and row.cost.data_wait is not None
    assert min(e.data_wait for e in steps) <= row.cost.data_wait <= max(e.data_wait for e in steps)
