"""The seconds of a step's parts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kdbench.train import timing
from kdbench.train.timing import StepTimer

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
