"""The Ray engine: each job is a task of a Ray cluster that runs the job's process, followed by its files.

Ray's retries are off: what becomes of a job is decided by the driver, as on any engine. Where a node does not see the
results folder, a relay on this machine writes into it what the job writes there (`ray_relay`).
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..errors import EngineError, StoreError
from ..text import counted
from ..train.events import ErrorEvent, Event, FinishedEvent, InterruptedEvent, WarningEvent
from ..train.interruption import EXIT_CODE
from ..train.job import Job
from . import ray_cluster, ray_relay, ray_task
from .base import End, Engine, Handle, Resources
from .job_files import JobFiles
from .local import CANCELLED, end_of

LOOK = 0.3
"""Seconds between looks at what jobs have written."""


@dataclass
class _Task:
    """A job in Ray's hands.

    Attributes:
        options: of its task.
        reference: of what its task returns.
        cancelled: whether by this command.
        failure: what has ended it, as it says.
        told: whether it has said that it has ended.
        ended: when its task was first seen to have ended; None before.
    """

    files: JobFiles
    order: ray_task.Order
    options: dict[str, Any]
    reference: ray.ObjectRef[ray_task.Exit | ray_task.Unseen]
    cancelled: bool = False
    failure: ErrorEvent | None = None
    told: bool = False
    ended: float | None = None


class RayEngine(Engine):
    """Gives jobs to a Ray cluster.

    Args:
        address: of the cluster, as `ray_cluster.find` returns it; None starts one on this machine.
        slots: the device of each job that may be in Ray's queue or run at a time.
        share: of a GPU that each job takes, on GPUs.
        timeout: seconds after which a job is stopped, its unfinished runs ending as `timeout`.
    """

    def __init__(
        self, address: str | None, slots: Sequence[str], share: float = 1.0, timeout: float | None = None
    ) -> None:
        self.address, self.slots, self.share, self.timeout = address, list(slots), share, timeout
        self.patience = 60.0 if address else 0.0
        self._tasks: dict[Handle, _Task] = {}
        self.excluded: dict[str, str] = {}  # nodes whose devices fail, and why
        self._train = ray.remote(ray_task.train)
        self._relay: Any = None
        self._news: list[tuple[Handle, Event | End]] = []

    def __enter__(self) -> RayEngine:
        ray_cluster.connect(self.address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the relay."""
        if self._relay is not None:
            ray.kill(self._relay)
            self._relay = None

    def submit(self, job: Job, resources: Resources) -> Handle:
        """Give a job to Ray, which starts it when it has the resources."""
        files = JobFiles.create(_absolute(job))
        files.follow()  # a job ends with its command, which others then see
        order = ray_task.Order(
            spec=files.spec,
            content=files.spec.read_bytes(),
            events=files.events,
            log=files.log,
            folder=Path.cwd(),
            threads=resources.threads,
            timeout=self.timeout,
            patience=self.patience,
        )
        options = {"name": f"kdbench {job.runs[0].display_name}", "max_retries": 0, **self.needs(resources)}
        self._tasks[files.name] = _Task(files, order, options, self._start(order, options))
        return files.name

    def _start(self, order: ray_task.Order, options: dict[str, Any]) -> ray.ObjectRef[ray_task.Exit | ray_task.Unseen]:
        """Give a task to Ray."""
        if self.excluded:
            options = options | {"label_selector": {"ray.io/node-id": f"!in({','.join(self.excluded)})"}}
        reference = self._train.options(**options).remote(replace(order, relay=self._relay))
        # A task ends with the command, which is therefore named.
        with suppress(OSError):
            order.spec.with_suffix(".queue").write_text(
                f"Ray task {reference.task_id().hex()[:16]} of process {os.getpid()} on {platform.node()}\n"
            )
        return reference

    def poll(self, seconds: float) -> list[tuple[Handle, Event | End]]:
        """What jobs have written, and what Ray says of their tasks."""
        references = [task.reference for task in self._tasks.values()]
        ready = set(ray.wait(references, num_returns=len(references), timeout=0)[0]) if references else set()
        news: list[tuple[Handle, Event | End]] = []
        for handle, task in list(self._tasks.items()):
            news += [(handle, event) for event in _read(task)]
            if task.reference in ready and (end := self._end(task)):
                self._close(handle)
                news.append((handle, end))
                del self._tasks[handle]
        news, self._news = self._news + news, []
        if not news:
            time.sleep(min(seconds, LOOK))
        return news

    def cancel(self, handle: Handle) -> None:
        """Cancel a task; a job that runs saves its runs. A second time its worker is killed, and the job with it."""
        if task := self._tasks.get(handle):
            ray.cancel(task.reference, force=task.cancelled, recursive=False)
            task.cancelled = True

    def needs(self, resources: Resources) -> dict[str, float]:
        """What Ray is asked for."""
        if resources.device == "cpu":
            return {"num_cpus": resources.cores}
        share = math.floor(self.share * 1e4) / 1e4  # Ray counts in such parts
        return {"num_cpus": resources.cores, "num_gpus": share if resources.world_size == 1 else resources.world_size}

    def explain(self, jobs: Sequence[Resources]) -> list[str]:
        """The cluster, and what each kind of job asks for."""
        lines = [f"Ray: {self.address}" if self.address else "Ray: a new cluster on this machine"]
        for resources, count in Counter(jobs).items():
            asked = ", ".join(f"{name}={value:g}" for name, value in self.needs(resources).items())
            lines.append(f"{counted(count, 'job')} of {asked}")
        return lines

    def _end(self, task: _Task) -> End | None:
        """How a job has ended whose task has; None where it is started again, or its last words may not be seen yet."""
        task.ended = task.ended or time.monotonic()
        try:
            done = ray.get(task.reference)
        except exceptions.RayError as error:
            task.files.delete(with_log=task.cancelled)
            return CANCELLED if task.cancelled else _lost(error, task.files.log)
        if isinstance(done, ray_task.Unseen):
            if task.cancelled:
                task.files.delete(with_log=True)
                return CANCELLED
            self._use_relay(task, done.host)
            return None
        if not task.told and time.monotonic() - task.ended < self.patience / 4:
            return None
        task.files.delete(with_log=done.code in (0, EXIT_CODE))
        end = end_of(done.code, self.timeout if done.expired else None, task.failure, done.kills, task.files.log)
        if task.failure and task.failure.node:
            self.excluded[done.node] = task.failure.reason
            return replace(end, reason=f"{end.reason} ({done.host})", retry=True)
        if task.failure:
            return replace(end, reason=f"{end.reason} ({done.host})")
        if done.code == EXIT_CODE and not task.cancelled and not done.expired:
            return End("preempted", f"the process was asked to stop on {done.host}", retry=True)
        return replace(end, retry=True) if end.status == "killed" else end

    def _use_relay(self, task: _Task, host: str) -> None:
        """Start a task again, with the relay."""
        if self._relay is None:
            # On this machine, for the results folder is there.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            actor = ray.remote(ray_relay.Relay)
            options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": ray_relay.THREADS, "scheduling_strategy": here}
            results = task.order.spec.parent.parent
            self._relay = actor.options(**options).remote(results)
            text = f"{host} does not see {results}: jobs there train in a temporary folder, and their files are sent"
            self._news.append((task.files.name, WarningEvent(text=text)))
        task.ended, task.reference = None, self._start(task.order, task.options)

    def _close(self, handle: Handle) -> None:
        """Let the relay release the runs of a job that has ended; one that was killed is replaced when it is needed."""
        if self._relay is not None:
            try:
                ray.get(self._relay.close.remote(handle))
            except exceptions.RayActorError:
                self._relay = None


def _read(task: _Task) -> Iterator[Event]:
    for event in task.files.new_events():
        if isinstance(event, ErrorEvent):
            task.failure = event
        if isinstance(event, ErrorEvent | FinishedEvent | InterruptedEvent):
            task.told = True
        yield event


def _lost(error: exceptions.RayError, log: Path) -> End:
    """The end of a task that has returned nothing."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, exceptions.TaskCancelledError):
        return CANCELLED
    if isinstance(error, exceptions.OutOfMemoryError):
        return End("out-of-memory", "Ray killed its worker because the node's memory was short; try --cohort 1", True)
    if isinstance(error, exceptions.NodeDiedError):
        return End("node-failure", f"its Ray node has failed: {first}", retry=True)
    if isinstance(error, exceptions.WorkerCrashedError | exceptions.ObjectLostError):
        return End("killed", "its Ray worker was killed", retry=True)
    if isinstance(error, exceptions.RayTaskError):
        cause: BaseException = error
        while isinstance(cause, exceptions.RayTaskError):  # of the relay, within the task's
            cause = cause.cause
        if isinstance(cause, exceptions.RayActorError):
            return End("killed", "the process that writes for other machines was killed", retry=True)
        if isinstance(cause, StoreError | EngineError):
            return End("failed", str(cause))
        if isinstance(cause, ImportError):
            return End("failed", f"{cause} on a node; all machines of the cluster need the same Python environment")
        return End("failed", f"its Ray task on {error.ip} has failed: {type(cause).__name__}: {cause}; see {log}")
    return End("failed", f"its Ray task has failed: {first}")


def _absolute(job: Job) -> Job:
    """A job whose paths mean the same in any folder."""
    paths: dict[str, Any] = {
        "results": job.results.resolve(),
        "data_root": job.data_root.absolute(),
        "data_path": job.data_path and job.data_path.absolute(),
        "teacher_files": {network: file.absolute() for network, file in job.teacher_files.items()},
        "method_files": tuple(file.absolute() for file in job.method_files),
        "network_files": tuple(file.absolute() for file in job.network_files),
    }
    return job.model_copy(update=paths)
