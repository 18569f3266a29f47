"""Seconds that the parts of a training step take, and that the device waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

Item = TypeVar("Item")
_Mark = float | torch.cuda.Event


class StepTimer:
    """Times the parts of one step: the teacher, the student.

    Args:
        device: where the step runs.
        exact: on CUDA, wait for the device at the start and end of each part, so that its work is timed and not its
            launch. On a CPU every step is exact.
        seconds: of parts that were timed before.

    Attributes:
        seconds: by the name of the part.
    """

    def __init__(self, device: torch.device, exact: bool, seconds: Mapping[str, float] | None = None) -> None:
        self.device, self.exact = device, exact or device.type == "cpu"
        self.seconds = dict(seconds or {})
        self._nested = 0.0

    def empty(self) -> StepTimer:
        """A timer of the same kind without any seconds: one for each student beside the shared parts of a step."""
        return StepTimer(self.device, self.exact)

    def __add__(self, other: StepTimer) -> StepTimer:
        """A timer with the seconds of both."""
        names = self.seconds | other.seconds
        seconds = {name: self.seconds.get(name, 0.0) + other.seconds.get(name, 0.0) for name in names}
        return StepTimer(self.device, self.exact, seconds)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to the part `name`; a block within counts for its own part only."""
        begin, outer, self._nested = self._now(), self._nested, 0.0
        yield
        elapsed = self._now() - begin
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._nested
        self._nested = outer + elapsed

    def _now(self) -> float:
        if self.exact and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Waited(NamedTuple):
    """What some steps have waited for data.

    Attributes:
        waits: seconds of each step.
        total: seconds that the steps have taken, the waits included.
    """

    waits: list[float]
    total: float

    @property
    def share(self) -> float:
        """Of the time, 0 to 1."""
        return min(1.0, sum(self.waits) / self.total) if self.total > 0 else 0.0


class DataWaits:
    """Measures how long the device waits for the next batch.

    On a CPU this is the time until the batch is there. On CUDA the process is ahead of the device, which still works on
    earlier steps meanwhile: the device waits from the end of what it was given to the batch, between two events.

    Args:
        device: where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def timed(self, batches: Iterator[Item]) -> Iterator[Item]:
        """The batches, each one waited for."""
        while True:
            begin = self._mark()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._marks.append((begin, self._mark()))
            yield batch

    def read(self) -> Waited:
        """Of the steps since the last call; on CUDA all that was given to the device must have ended."""
        waited = Waited([_between(*marks) for marks in self._marks], time.perf_counter() - self._begin)
        self.restart()
        return waited

    def restart(self) -> None:
        """Leave out what has passed since the last step."""
        self._marks: list[tuple[_Mark, _Mark]] = []
        self._begin = time.perf_counter()

    def _mark(self) -> _Mark:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def _between(begin: _Mark, end: _Mark) -> float:
    """Seconds from one mark to another of the same kind."""
    if isinstance(begin, float):
        assert isinstance(end, float)
        return end - begin
    assert not isinstance(end, float)
    return float(begin.elapsed_time(end)) / 1000
