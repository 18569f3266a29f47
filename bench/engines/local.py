"""The local engine: each job is a process on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from ..errors import EngineError
from ..train.claim import FINISHED
from ..train.events import ErrorEvent, Event, HeldEvent, RowEvent
from ..train.interruption import EXIT_CODE, LOST_LEASE
from ..train.job import WITH_PARENT, Job
from .base import End, Engine, Handle, Resources
from .job_files import JobFiles
from .memory_kills import memory_kills
from .probe import probe_now, visible_alone
from .process import THREADS, watch

RESUMED = "the same command resumes it from its checkpoint"

CANCELLED = End("cancelled", f"the process was asked to stop; {RESUMED}")


@dataclass
class _Process:
    """A job's process.

    Attributes:
        files: of the job.
        killed_for_memory: how often the kernel had done so before.
        cancelled: how often the job was asked to stop.
        statuses: of its runs' rows; "held" of those that another process trains.
        failure: what has ended it, as it says.
    """

    job: Job
    device: str
    process: subprocess.Popen[bytes]
    files: JobFiles
    log: IO[bytes]
    killed_for_memory: int | None
    cancelled: int = 0
    statuses: dict[str, str] = field(default_factory=dict)
    failure: ErrorEvent | None = None


class LocalEngine(Engine):
    """Runs jobs as processes of this machine, which end with the command.

    Args:
        slots: the device of each job that runs at a time.
        timeout: seconds after which a job is stopped, its unfinished runs ending as `timeout`.
    """

    def __init__(self, slots: Sequence[str], timeout: float | None = None) -> None:
        self.slots, self.timeout = list(slots), timeout
        self._processes: dict[Handle, _Process] = {}
        self._news: SimpleQueue[tuple[Handle, Event | End]] = SimpleQueue()

    def submit(self, job: Job, resources: Resources) -> Handle:
        """Start the job's process. A job on a GPU sees that one alone.

        Raises:
            StoreError: the results folder cannot be written.
            EngineError: this machine starts no process.
        """
        device, environment = visible_alone(resources.device)
        files = JobFiles.create(job.model_copy(update={"device": device}))
        threads = THREADS | {"OMP_NUM_THREADS": str(resources.threads)}
        log = files.log.open("wb")
        command = [sys.executable, "-m", "kdbench.train.job", str(files.spec), str(files.events), WITH_PARENT]
        before = memory_kills()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=threads | dict(os.environ) | environment
            )
        except OSError as error:
            log.close()
            files.delete(with_log=True)
            raise EngineError(f"no process can be started: {error.strerror}; {RESUMED}, with fewer --jobs") from error
        started = _Process(job, resources.device, process, files, log, before)
        self._processes[files.name] = started
        threading.Thread(target=self._watch, args=(started,), daemon=True).start()
        return files.name

    def poll(self, seconds: float) -> list[tuple[Handle, Event | End]]:
        """What jobs have reported."""
        news: list[tuple[Handle, Event | End]] = []
        with suppress(Empty):  # nothing was reported in this time
            news.append(self._news.get(timeout=seconds))
        while not self._news.empty():
            news.append(self._news.get())
        for handle, each in news:
            if isinstance(each, End):
                del self._processes[handle]
        return news

    def cancel(self, handle: Handle) -> None:
        """Send SIGTERM, on which the job saves its runs; a second time SIGKILL."""
        if started := self._processes.get(handle):
            started.cancelled += 1
            started.process.send_signal(signal.SIGTERM if started.cancelled == 1 else signal.SIGKILL)

    def _watch(self, started: _Process) -> None:
        """Pass on what a job reports until its process has ended, and then how, whatever goes wrong meanwhile."""
        try:
            expired = watch(started.process, self.timeout, lambda: self._read(started))
            end = self._end(started, expired)
        except Exception as error:  # noqa: BLE001 - the command would wait for the end for ever
            end = End("failed", f"its process could not be followed: {type(error).__name__}: {error}")
            started.process.kill()
            started.process.wait()
        started.log.close()
        assert started.process.stdin is not None
        started.process.stdin.close()
        started.files.delete(with_log=started.process.returncode in (0, EXIT_CODE))
        self._news.put((started.files.name, end))

    def _read(self, started: _Process) -> None:
        for event in started.files.new_events():
            if isinstance(event, ErrorEvent):
                started.failure = event
            elif isinstance(event, RowEvent):
                started.statuses[event.run] = event.status
            elif isinstance(event, HeldEvent):
                started.statuses[event.run] = "held"
            self._news.put((started.files.name, event))

    def _end(self, started: _Process, expired: bool) -> End:
        """How a process has ended."""
        code, kills = started.process.returncode, (started.killed_for_memory, memory_kills())
        end = end_of(code, self.timeout if expired else None, started.failure, kills, started.files.log)
        bad = any(started.statuses.get(run.id) not in (*FINISHED, "skipped", "held") for run in started.job.runs)
        if started.device == "cpu" or started.cancelled or expired or not bad:
            return end
        try:
            return replace(end, broken=probe_now(started.device).error)
        except OSError:  # no process could be started, which says nothing of the device
            return end


def end_of(
    code: int,
    timeout: float | None,
    failure: ErrorEvent | None,
    kills: tuple[int | None, int | None],
    log: Path,
) -> End:
    """How a job's process has ended.

    Args:
        code: its return code.
        timeout: seconds after which it was stopped; None where it was not.
        failure: what has ended it, as it says.
        kills: processes that the kernel had killed for memory before it, and after.
        log: of the process.
    """
    if timeout:
        return End("timeout", f"stopped after {timeout:.0f} s; {RESUMED}")
    if code == LOST_LEASE:
        return End("failed", "another process has taken over one of its runs", retry=True)
    if failure:
        return End(failure.status, failure.reason, retry=bool(failure.node))
    if code in (EXIT_CODE, -signal.SIGTERM, -signal.SIGINT):
        return CANCELLED
    if code == -signal.SIGKILL:
        return _killed(*kills)
    if code < 0:
        return End("failed", f"the process was ended by {signal.Signals(-code).name}; see {log}")
    return End("failed", f"the process ended with code {code} without a reason; see {log}")


def _killed(before: int | None, after: int | None) -> End:
    """Of a process that got SIGKILL: from the kernel for memory, or from somebody else."""
    if before is None or after is None:
        return End("killed", "the process was killed, most often for memory; try --cohort 1, or --workers 0")
    if after > before:
        return End("out-of-memory", "the kernel killed the process for memory; try --cohort 1, or --workers 0")
    return End("killed", f"the process was killed, and not for memory; {RESUMED}")
