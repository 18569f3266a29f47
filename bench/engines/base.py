"""What every engine is: it trains jobs, each a part of a cohort in one process, and says what becomes of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

from ..records.row import Status
from ..spec.run import Run
from ..train.events import Event
from ..train.job import Job

Handle = str
"""An engine's name of a job that it was given."""


@dataclass(frozen=True)
class PlannedJob:
    """Runs of one cohort that one process trains.

    Attributes:
        runs: unfinished ones.
        cohort: number of the cohort in the plan. Jobs of one cohort never run at the same time on a CPU.
        threads: of the process, on a CPU. Rounding depends on it, so the plan decides it and not what is left to do.
        memory: bytes of the device that it is estimated to need; None where that is not known.
        seconds: that it is estimated to take, likewise.
    """

    runs: tuple[Run, ...]
    cohort: int
    threads: int
    memory: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Resources:
    """What a job needs.

    Attributes:
        device: "cpu", "cuda:<n>", or "cuda:<n>,<m>" for a job on several GPUs.
        threads: of all its processes, on a CPU.
        workers: loader processes beside them.
        world_size: processes that share its batches, one for each GPU.
        memory: bytes of the device that it is estimated to need; None where that is not known. Jobs that differ in
            this and in the next alone need the same.
        seconds: that it is estimated to take, likewise.
    """

    device: str
    threads: int
    workers: int = 0
    world_size: int = 1
    memory: int | None = field(default=None, compare=False)
    seconds: float | None = field(default=None, compare=False)

    @property
    def cores(self) -> int:
        """Processor cores: all of a job on a CPU, one beside each GPU and the loader's."""
        return self.threads if self.device == "cpu" else self.world_size + self.workers


@dataclass(frozen=True)
class End:
    """How a job has ended.

    Attributes:
        status: of its runs that have no row.
        reason: why.
        retry: whether such runs are given to another job, for what ended this one was not of their doing.
        broken: why the device of the job cannot be used any more; empty where it can.
    """

    status: Status
    reason: str
    retry: bool = False
    broken: str = ""


class Engine(AbstractContextManager["Engine"]):
    """Trains jobs. It is used by one thread, within its context; on leaving, jobs that still run are cancelled.

    Attributes:
        slots: the device of each job that may be submitted at a time; a device that is named twice takes two.
        patience: seconds until what another machine has written is sure to be seen here.
    """

    slots: Sequence[str]
    patience: float = 0.0

    @abstractmethod
    def submit(self, job: Job, resources: Resources) -> Handle:
        """Start a job, or put it into a queue; it may start at once.

        Raises:
            StoreError: the results folder cannot be written.
            EngineError: it cannot be submitted.
        """

    @abstractmethod
    def poll(self, seconds: float) -> list[tuple[Handle, Event | End]]:
        """What jobs have reported since, in order, an `End` last; waits at most so long for something."""

    @abstractmethod
    def cancel(self, handle: Handle) -> None:
        """Ask a job to save its runs and end; its `End` follows. A second time it is stopped at once."""

    def explain(self, jobs: Sequence[Resources]) -> list[str]:
        """What would be submitted for jobs that need this, in lines; none where that says nothing new."""
        return []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release what the engine holds."""
