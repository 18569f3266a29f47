"""The unit of work of every engine: a job (JSON) in, result rows out.

A job is one run or one cohort. `python -m kdbench.train.job JOB.json EVENTS.jsonl` does one and writes its progress to
the second file, a line of JSON for each event.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from kdbench import methods
from kdbench.datasets.base import DataError

from .. import tasks
from ..errors import DeviceError, TeacherError
from ..networks.base import Network
from ..records import checkpoint
from ..records.leases import Leases
from ..records.row import Row
from ..records.store import Store, Version
from ..spec import network_name
from ..spec.recipe import evaluated_alike
from ..spec.run import Run
from ..tasks import precision
from ..tasks.base import Task
from . import checkpointing, processes, ranks
from .checkpointing import STUDENT
from .claim import claim
from .events import (
    ErrorEvent,
    Event,
    FinishedEvent,
    HeldEvent,
    InterruptedEvent,
    NoticeEvent,
    PhaseEvent,
    Report,
    ResumedEvent,
    WarningEvent,
    to_line,
)
from .failures import DeviceLostError, blame, recorded_status, status_of
from .frozen_teacher import MeasuredTeacher, load_teacher, measure_teacher
from .interruption import EXIT_CODE, LOST_LEASE, Interrupted, interruption
from .journal import Journal
from .loop import train
from .processes import ProcessesFailedError
from .result import finish, keep, row_without_result
from .student import Student

WITH_PARENT = "--with-parent"
"""Option of a job that ends with the process that started it."""

ORPHAN_SECONDS = 30.0
"""That such a job has to save its runs."""


class JobSettings(BaseModel):
    """What the jobs of a plan have in common. Nothing in it but `world_size` changes a result.

    Attributes:
        data_root: folder that holds data sets.
        data_path: a user's data, used in place of the data set that the runs name.
        data_options: for opening `data_path`; the data's fingerprint depends on them.
        results: folder of runs.
        teacher_files: by teacher network, a checkpoint used in place of the teacher's run.
        workers: loader processes.
        world_size: processes that share every batch, one for each GPU.
        method_files: files of methods that do not come with kdbench.
        network_files: files of networks, likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_root: Path
    data_path: Path | None = None
    data_options: dict[str, Any] = {}
    results: Path
    teacher_files: dict[str, Path] = {}
    workers: int = 0
    world_size: Annotated[int, Field(ge=1)] = 1
    method_files: tuple[Path, ...] = ()
    network_files: tuple[Path, ...] = ()


class Job(JobSettings):
    """What an engine hands to one process: the runs of one cohort, or of a part of it.

    Attributes:
        runs: that are trained together.
        device: of torch; the first of several.
        journal: whether the points of each run are kept in its folder, for trackers.
        stale: by run, a lease of an earlier process that has ended, as `Leases` takes it.
        before: version of each run's row when the job was made; with a later one, its run is done.
        patience: seconds to wait for files that another machine has written, and for leases of one that failed.

    Raises:
        ValueError: the runs do not share task, scale, data, recipe and seed, or have several frozen teachers.
    """

    runs: Annotated[tuple[Run, ...], Field(min_length=1)]
    device: str = "cpu"
    journal: bool = False
    stale: dict[str, str] = {}
    before: dict[str, Version] = {}
    patience: float = 0.0

    @property
    def settings(self) -> JobSettings:
        return JobSettings(**self.model_dump(include=set(JobSettings.model_fields)))

    @model_validator(mode="after")
    def _one_cohort(self) -> Self:
        first = self.runs[0]
        for name in ("task", "scale", "data", "recipe", "seed"):
            different = next((run for run in self.runs if getattr(run, name) != getattr(first, name)), None)
            if different is not None:
                names = f"{first.display_name!r} and {different.display_name!r}"
                raise ValueError(f"the runs of a job share {name}, and {names} do not; give each its own job")
        teachers = {(run.teacher.id, run.teacher_file) for run in self.runs if run.teacher}
        if len(teachers) > 1:
            raise ValueError(f"the runs of a job have at most one frozen teacher, not {len(teachers)}; divide them")
        return self


def execute(job: Job, report: Report) -> list[Row]:
    """Train, evaluate and record every run of a job; returns their rows.

    Raises:
        DataError, SpecError: before any training, for what concerns the whole job.
        StoreError: a row could not be written. Its checkpoint is kept, so the next call only evaluates again.
    """
    device, store = torch.device(job.device), Store(job.results)
    if job.journal and ranks.rank() == 0:
        report = Journal(store, report)
    for file in job.method_files:
        methods.register(file)
    for file in job.network_files:
        network_name.register(file)
    precision.use(job.runs[0].recipe, device)
    task = open_task(job, job.runs[0])
    runs, failed = list(job.runs), []
    teacher = measured = None
    try:
        teacher, measured = _teacher(job, task, store, device, report)
    except Exception as error:  # noqa: BLE001 - the status of the runs that need it; the others train
        blame([run.id for run in runs if run.teacher], error)
        failed = [_failure(run, error, store, device, report) for run in runs if run.teacher]
        runs = [run for run in runs if not run.teacher]
    begin = time.perf_counter()
    students: list[Student] = []
    for run in runs:
        try:
            students.append(_student(run, task, teacher, measured, store, device, report))
        except Exception as error:  # noqa: BLE001 - it becomes the run's status
            blame([run.id], error)
            failed.append(_failure(run, error, store, device, report))
    if students:
        try:
            train(students, task, teacher, device, report)
        except Exception as error:  # noqa: BLE001 - data or teacher failed under all of them
            blame([student.run.id for student in students if student.active], error)
            for student in filter(lambda s: s.active, students):
                student.status, student.reason = recorded_status(error)
    rows = [finish(student, task, store, measured, len(students), device, report) for student in students]
    report(FinishedEvent(seconds=time.perf_counter() - begin))
    return failed + rows


def _student(
    run: Run,
    task: Task,
    teacher: Network | None,
    measured: MeasuredTeacher | None,
    store: Store,
    device: torch.device,
    report: Report,
) -> Student:
    """The student of a run, resumed where it was saved."""
    info = teacher.info if teacher is not None and run.teacher is not None else None
    student = Student(run, task, info, store.folder(run.id), device)
    if measured is not None and run.teacher is not None:
        student.teacher_sha256 = measured.record.sha256

    def resume() -> bool:
        return checkpointing.resume(student, lambda text: report(NoticeEvent(run=run.id, text=text)))

    resumed = ranks.of_first(resume)  # sets a damaged file aside before the others look
    if ranks.rank() > 0:
        resume()
    if resumed:
        report(ResumedEvent(run=run.id, epoch=student.epoch, step=student.steps))
    return student


def _teacher(
    job: Job, task: Task, store: Store, device: torch.device, report: Report
) -> tuple[Network | None, MeasuredTeacher | None]:
    """The job's frozen teacher, measured again, where its runs have one.

    Raises:
        TeacherError: there is none, its file changed, or its score is off its record.
    """
    first = job.runs[0]
    spec = next((run.teacher for run in job.runs if run.teacher), None)
    if spec is None:
        return None, None
    report(PhaseEvent(text=f"measuring the teacher {spec.student}"))
    given = job.teacher_files.get(spec.student)
    if given is not None and checkpoint.sha256(given) not in [run.teacher_file for run in job.runs]:
        raise TeacherError(f"{given} changed since the runs were planned; give the same command again")
    network, file, recorded = load_teacher(spec, given, store, task, first.recipe.channels_last, device)
    teacher_task = (
        task if spec.data == first.data and evaluated_alike(spec.recipe, first.recipe) else open_task(job, spec)
    )
    measured = measure_teacher(spec, network, file, recorded, teacher_task, task, device)
    if measured.warning:
        report(WarningEvent(text=measured.warning))
    return network, measured


def _wait_for_teacher(runs: Sequence[Run], job: Job, store: Store) -> None:
    """Wait for a trained teacher that this machine does not see yet: network file systems keep old listings a while."""
    teacher = next((run.teacher for run in runs if run.teacher and run.teacher.student not in job.teacher_files), None)
    until = time.monotonic() + job.patience
    while teacher is not None and time.monotonic() < until:
        row = store.row(teacher.id)
        if row is not None and row.status == "done" and (store.folder(teacher.id) / STUDENT).exists():
            return
        time.sleep(1)


def _failure(run: Run, error: Exception, store: Store, device: torch.device, report: Report) -> Row:
    return keep(store, row_without_result(run, *recorded_status(error), device), report)


def open_task(job: Job, run: Run) -> Task:
    """A run's data, prepared for its recipe.

    Raises:
        DataError: the data changed since the run was planned.
    """
    task = tasks.get(run.task)
    data = task.open(run.data.name, job.data_root, job.data_path, run.data.options | job.data_options)
    if data.fingerprint != run.data.fingerprint:
        raise DataError(f"{data.path} changed since the runs were planned; give the same command again")
    return task(data, run.recipe, run.data_seed, -(-job.workers // job.world_size))


def end_with_parent(save: bool) -> None:
    """End this process with the one that started it, which holds the other end of standard input; `save` runs first."""

    def watch() -> None:
        # Not through sys.stdin: loader processes that are forked meanwhile would wait for its lock for ever.
        while os.read(0, 4096):
            pass
        if save:
            os.kill(os.getpid(), signal.SIGTERM)  # until it has ended, its leases keep others from training its runs
            time.sleep(ORPHAN_SECONDS)
        os._exit(1)  # each run is resumed from where it was saved

    threading.Thread(target=watch, daemon=True).start()


def check_device(name: str) -> None:
    """Try a device before any run is blamed.

    Raises:
        DeviceError: it cannot be used.
    """
    try:
        torch.zeros(1, device=name).add_(1).cpu()
    except (RuntimeError, AssertionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DeviceError(f"{name} cannot be used: {first}; name others with --device") from error


def main() -> None:
    if WITH_PARENT in sys.argv[3:]:
        end_with_parent(save=True)
    interruption.listen()
    job = Job.model_validate_json(Path(sys.argv[1]).read_bytes())
    with Path(sys.argv[2]).open("ab", buffering=0) as lines:
        if lines.tell():  # of an earlier start, which may have died within a line
            lines.write(b"\n")

        def report(event: Event) -> None:
            lines.write(to_line(event).encode() + b"\n")

        try:
            if job.world_size == 1:
                check_device(job.device)
            _execute_claimed(job, report)
        except Interrupted:
            report(InterruptedEvent())
            sys.exit(EXIT_CODE)
        except (Exception, DeviceLostError) as error:
            report(error_event(error))
            raise


def error_event(error: Exception | DeviceLostError) -> ErrorEvent:
    """What a job reports that ends by an error."""
    if isinstance(error, ProcessesFailedError):
        return error.event
    node = os.environ.get("SLURMD_NODENAME", platform.node())
    if isinstance(error, DeviceLostError):
        return ErrorEvent(status="failed", reason=str(error), node=node)
    try:
        status, reason = status_of(error)
    except DeviceLostError as lost:
        return error_event(lost)
    return ErrorEvent(status=status, reason=reason, node=node if isinstance(error, DeviceError) else "")


def _execute_claimed(job: Job, report: Report) -> None:
    """Execute what no other process trains, or has finished since the job was made."""

    def lost(run: str) -> None:
        """Leave a run to the process that has taken it over: this one could not keep its lease alive."""
        try:
            report(HeldEvent(run=run, holder="another process"))
            report(InterruptedEvent())  # the others of the cohort are resumed from their checkpoints
        finally:  # also where the folder that lost the lease takes no report
            os._exit(LOST_LEASE)

    store = Store(job.results)
    with Leases(job.results, lost, job.stale) as leases:
        mine = claim(job.runs, job.before, store, leases, report, job.patience)
        if mine:
            _wait_for_teacher(mine, job, store)
            claimed = job.model_copy(update={"runs": tuple(mine)})
            if job.world_size == 1:
                execute(claimed, report)
            else:
                processes.execute(claimed, report, leases.nonce)
        else:
            report(FinishedEvent(seconds=0.0))


if __name__ == "__main__":
    main()
