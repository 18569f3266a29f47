"""The seconds of a step's parts, and of waiting for data."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdbench.train import timing
from kdbench.train.timing import DataWaits, StepTimer, Waited

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(seconds=0.0, perf_counter=lambda: clock.seconds)
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_a_part_within_another_counts_for_itself_alone(clock: SimpleNamespace) -> None:
    timer = StepTimer(CPU, exact=False, seconds={"data": 0.5})
    with timer.part("teacher"):
        clock.seconds += 1
    with timer.part("student"):
        clock.seconds += 2
        with timer.part("teacher"):
            clock.seconds += 4
        clock.seconds += 8
    assert timer.seconds == {"data": 0.5, "teacher": 5.0, "student": 10.0}


def test_a_students_timer_is_added_to_the_shared_parts_and_leaves_them_alone(clock: SimpleNamespace) -> None:
    shared = StepTimer(CPU, exact=False, seconds={"teacher": 1.0})
    for _ in range(2):
        timer = shared.empty()
        with timer.part("student"):
            clock.seconds += 2
            with timer.part("teacher"):
                clock.seconds += 4
        assert (shared + timer).seconds == {"teacher": 5.0, "student": 2.0}
    assert shared.seconds == {"teacher": 1.0}


def test_steps_are_always_exact_on_a_cpu_and_elsewhere_on_request() -> None:
    devices = (CPU, torch.device("cuda"))
    assert [StepTimer(device, exact=False).exact for device in devices] == [True, False]
    assert [StepTimer(device, exact=True).exact for device in devices] == [True, True]


def loaded(clock: SimpleNamespace, *seconds: float) -> Iterator[float]:
    """Batches that take so long to load each."""
    for each in seconds:
        clock.seconds += each
        yield each


def test_on_a_cpu_the_device_waits_until_the_batch_is_there(clock: SimpleNamespace) -> None:
    waits = DataWaits(CPU)
    for batch in waits.timed(loaded(clock, 1.0, 2.0)):
        clock.seconds += 3.0 * batch
    assert waits.read() == Waited([1.0, 2.0], 12.0)
    clock.seconds += 100.0
    waits.restart()
    assert waits.read() == Waited([], 0.0) and Waited([], 0.0).share == 0.0
    assert Waited([1.0, 2.0], 12.0).share == 0.25


def test_on_cuda_the_device_waits_from_the_end_of_its_work_until_the_batch_is_there(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps of 5 s are launched at once; the second batch loads for 7 s, which the first step hides in part."""
    busy_until = 0.0

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, _stream: object) -> None:
            self.time = max(busy_until, clock.seconds)

        def elapsed_time(self, other: Event) -> float:
            return 1000 * (other.time - self.time)

    cuda: Any = torch.cuda
    monkeypatch.setattr(cuda, "Event", Event)
    monkeypatch.setattr(cuda, "current_stream", lambda device: None)
    waits = DataWaits(torch.device("cuda"))
    for _ in waits.timed(loaded(clock, 1.0, 7.0, 2.0)):
        busy_until = max(busy_until, clock.seconds) + 5.0
    clock.seconds = busy_until
    assert waits.read() == Waited([1.0, 2.0, 0.0], 18.0)
