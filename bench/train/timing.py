"""Seconds that the parts of a training step take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class StepTimer:
    """Times the parts of one step: waiting for data, the teacher, the student.

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
