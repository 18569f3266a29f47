"""Signals that ask a job to stop: it saves what it has trained, and ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""What batch systems and people send; the last two can be chosen with Slurm's `--signal`."""

EXIT_CODE = 143
"""Of a job that was stopped by a signal, as shells count SIGTERM."""


LOST_LEASE = 75
"""Of a job that ended because another process has taken over one of its runs; sysexits.h: try again later."""


class Interrupted(BaseException):
    """The job was asked to stop; no `except Exception` takes it for a run that failed."""


class Interruption:
    """Whether the job was asked to stop.

    Attributes:
        asked: whether a signal has come. The first one stops the job; what is saved and released on its way out is not
            stopped by others.
    """

    def __init__(self) -> None:
        self.asked = False
        self._deferred = False

    def listen(self) -> None:
        """Let signals raise `Interrupted` from now on; within `deferred` they are only noted."""
        for number in SIGNALS:
            signal.signal(number, self._receive)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that asks itself, with `asked`, and raises `Interrupted` once it has saved; else its end does."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def check(self) -> None:
        """Stop the job where a signal has asked it to.

        Raises:
            Interrupted: one has.
        """
        if self.asked:
            raise Interrupted

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        if first and not self._deferred:
            raise Interrupted


interruption = Interruption()
"""Of this process."""
