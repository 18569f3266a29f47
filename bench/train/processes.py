"""Starts the processes of a job on several GPUs, one for each, and follows them; none of them outlives another."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ..records.store import Store
from . import ranks
from .events import ErrorEvent, Event, NoticeEvent, Report, RowEvent, from_line
from .interruption import EXIT_CODE, Interrupted, interruption
from .result import keep, row_without_result

if TYPE_CHECKING:
    from ..spec.run import Run
    from .job import Job

LOOK = 0.2
"""Seconds between looks at the processes."""

DEATH = 1.0
"""Seconds in which a process that has died is seen to have ended, once another has failed by it."""

GRACE = 60.0
"""Seconds that the others have to save once one of them was asked to stop and has ended."""


class ProcessesFailedError(Exception):
    """A job has failed in one of its processes.

    Args:
        event: what that one has reported.
    """

    def __init__(self, event: ErrorEvent) -> None:
        super().__init__(event.reason)
        self.event = event


def execute(job: Job, report: Report, nonce: str) -> None:
    """Train the runs of a job in `job.world_size` processes.

    An error of one run in any process ends that run; all processes are started again for the others, which resume from
    their checkpoints.

    Args:
        job: with runs that are claimed.
        report: receives what the first process reports.
        nonce: of this process' leases, without which the first one writes no file.

    Raises:
        Interrupted: a signal has asked the job to stop; its runs are saved.
        ProcessesFailedError: what failed is not one run's doing.
        StoreError: a row could not be written.
    """
    runs = {run.id: run for run in job.runs}
    while runs:
        with _Processes(job.model_copy(update={"runs": tuple(runs.values())}), nonce) as processes:
            failure = processes.follow(_without_rows(runs, report))
        if failure is None:
            return
        failed = [runs.pop(name) for name in failure.runs if name in runs]
        if not failed:
            raise ProcessesFailedError(failure)
        for run in failed:
            row = row_without_result(run, failure.status, failure.reason, job.device)
            row = row.model_copy(
                update={"environment": row.environment.model_copy(update={"world_size": job.world_size})}
            )
            keep(Store(job.results), row, report)
        for run in runs.values():
            report(NoticeEvent(run=run.id, text="started again without the run of the cohort that has failed"))


def _without_rows(runs: dict[str, Run], report: Report) -> Report:
    """Pass events on; runs that have a row are not to be trained again."""

    def passed(event: Event) -> None:
        report(event)
        if isinstance(event, RowEvent):
            runs.pop(event.run, None)

    return passed


@dataclass
class _Process:
    """One of the processes.

    Attributes:
        events: descriptor of what it reports.
        unread: the beginning of a line that is not whole.
        silent: whether it has closed its end.
    """

    process: subprocess.Popen[bytes]
    events: int
    unread: bytes = b""
    silent: bool = False


class _Processes:
    """The running processes of a job; leaving ends those that still run."""

    def __init__(self, job: Job, nonce: str) -> None:
        self.job = job
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.store.set(ranks.JOB, job.model_dump_json())
        self.store.set(ranks.LEASES, nonce)
        self.all: list[_Process] = []

    def __enter__(self) -> _Processes:
        threads = max(1, torch.get_num_threads() // self.job.world_size)
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if self.job.device == "cpu" else {})
        for rank in range(self.job.world_size):
            ours, theirs = os.pipe()
            command = [sys.executable, "-m", "kdbench.train.rank", str(rank), str(self.store.port), str(theirs)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs], env=environment)
            os.close(theirs)
            self.all.append(_Process(process, ours))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.all:
            each = self.all.pop()
            each.process.kill()
            each.process.wait()
            os.close(each.events)

    def follow(self, report: Report) -> ErrorEvent | None:
        """Pass on what they report until all have ended; returns why they could not go on, if so.

        Raises:
            Interrupted: they were asked to stop, and have saved.
        """
        asked: float | None = None
        with interruption.deferred():
            while any(each.process.poll() is None for each in self.all):
                for event in self._events(LOOK):
                    if isinstance(event, ErrorEvent):
                        return self._reason(event)
                    report(event)
                if interruption.asked and asked is None:
                    asked = time.monotonic()
                    for each in self.all:
                        each.process.send_signal(signal.SIGTERM)
                codes = [each.process.poll() for each in self.all]
                if any(code not in (None, 0, EXIT_CODE) for code in codes):
                    break
                if EXIT_CODE in codes and asked is None:
                    asked = time.monotonic()
                if asked is not None and EXIT_CODE in codes and time.monotonic() - asked > GRACE:
                    break
            for event in self._events(0):
                if isinstance(event, ErrorEvent):
                    return self._reason(event)
                report(event)
        return self._failure([each.process.poll() for each in self.all])

    def _reason(self, event: ErrorEvent) -> ErrorEvent | None:
        """Why they cannot go on after one has reported an error: that, or that another has died before.

        When a process dies, those that wait for it in a reduction fail, too, and may report it first.
        """
        until = time.monotonic() + DEATH
        while time.monotonic() < until:
            codes = [each.process.poll() for each in self.all]
            if any(code not in (None, 0) for code in codes):
                return self._failure(codes)
            time.sleep(DEATH / 20)
        return event

    def _failure(self, codes: Sequence[int | None]) -> ErrorEvent | None:
        """Why processes ended that reported no error; None where all have finished."""
        bad = next(((rank, code) for rank, code in enumerate(codes) if code not in (None, 0, EXIT_CODE)), None)
        if bad is None:
            if EXIT_CODE in codes:
                raise Interrupted
            return None
        rank, code = bad
        if code == -signal.SIGKILL:  # most often for memory, which is found out by who has started this process
            self.__exit__(None, None, None)
            os.kill(os.getpid(), signal.SIGKILL)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code} without a reason"
        return ErrorEvent(status="failed", reason=f"process {rank} of {len(codes)} {how}")

    def _events(self, seconds: float) -> Iterator[Event]:
        """What they have reported, after waiting for it at most so long."""
        while ready := select.select([each.events for each in self.all if not each.silent], [], [], seconds)[0]:
            seconds = 0.0
            for each in (each for each in self.all if each.events in ready):
                read = os.read(each.events, 2**16)
                each.silent = not read
                *lines, each.unread = (each.unread + read).split(b"\n")
                yield from (event for line in lines if (event := from_line(line.decode(errors="replace"))))
