"""The unit of work of every engine: a job (JSON) in, result rows out.

A job is one run or one cohort. `python -m kdbench.train.job JOB.json` does one and prints its
progress as JSON lines; nothing else is printed on standard output.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from kdbench.datasets.base import DataError

from .. import tasks
from ..errors import TeacherError
from ..networks.base import Network
from ..networks.load import load_network
from ..records import checkpoint as checkpoints
from ..records import environment
from ..records.row import Cost, Epoch, Metrics, Row, Status, StudentRecord, TeacherRecord
from ..records.store import Store
from ..spec.run import Run
from ..tasks.base import Task
from .loop import Report, status_of, train
from .student import STUDENT, TEACHER, Member

TEACHER_TOLERANCE = 0.5  # points; a re-measured teacher further from its record than this is another teacher


class JobSettings(BaseModel):
    """What the jobs of a plan have in common. Nothing in it changes a result.

    Attributes:
        data_root: folder that holds data sets.
        data_path: a user's data, used in place of the data set that the runs name.
        data_options: for opening `data_path`; the data's fingerprint depends on them.
        results: folder of runs.
        teacher_file: checkpoint used in place of the teacher's run.
        workers: loader processes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_root: Path
    data_path: Path | None = None
    data_options: dict[str, Any] = {}
    results: Path
    teacher_file: Path | None = None
    workers: int = 0


class Job(JobSettings):
    """What an engine hands to one process: the runs of one cohort, or of a part of it.

    Raises:
        ValueError: the runs do not share task, scale, data, recipe and seed, or have several frozen teachers.
    """

    runs: Annotated[tuple[Run, ...], Field(min_length=1)]
    device: str = "cpu"

    @property
    def settings(self) -> JobSettings:
        return JobSettings(**self.model_dump(exclude={"runs", "device"}))

    @model_validator(mode="after")
    def _one_cohort(self) -> Self:
        first = self.runs[0]
        for name in ("task", "scale", "data", "recipe", "seed"):
            different = next((run for run in self.runs if getattr(run, name) != getattr(first, name)), None)
            if different is not None:
                raise ValueError(
                    f"the runs of a job share {name}, and {first.shown!r} and {different.shown!r} do not; "
                    "give each its own job"
                )
        teachers = {(run.teacher.id, run.teacher_file) for run in self.runs if run.teacher}
        if len(teachers) > 1:
            raise ValueError(f"the runs of a job have at most one frozen teacher, not {len(teachers)}; divide them")
        return self


@dataclass(frozen=True)
class Measured:
    """A teacher's record, and what students are measured against (`Task.evaluate_teacher`)."""

    record: TeacherRecord
    answers: Tensor | None


def execute(job: Job, report: Report) -> list[Row]:
    """Train, evaluate and keep every run of a job that is not finished yet; returns their rows.

    Raises:
        DataError: before any training, for what concerns the whole job.
        StoreError: a row could not be written. Its checkpoint is kept, so the next call only evaluates again.
    """
    device = torch.device(job.device)
    store = Store(job.results)
    first = job.runs[0]
    task = _task(job, first)
    runs = job.runs
    failed: list[Row] = []
    teacher = measured = None
    try:
        teacher, measured = _teacher(job, task, store, device, report)
    except Exception as error:  # noqa: BLE001 - the students' status; whoever needs no teacher goes on
        broken = [run for run in runs if run.teacher]
        failed = [_keep(store, row_without_result(run, *status_of(error), device), report) for run in broken]
        runs = tuple(run for run in runs if not run.teacher)
    begin = time.perf_counter()
    members = []
    for run in runs:
        try:
            info = teacher.info if teacher is not None and run.teacher is not None else None
            member = Member(run, task, info, store.folder(run.id), device)
            if member.resume():
                report({"event": "resumed", "run": run.id, "epoch": member.epoch, "step": member.steps})
            members.append(member)
        except Exception as error:  # noqa: BLE001 - it becomes the run's status
            failed.append(_keep(store, row_without_result(run, *status_of(error), device), report))
    if members:
        try:
            train(members, task, teacher, device, report)
        except Exception as error:  # noqa: BLE001 - data or teacher failed under all of them
            for member in filter(lambda m: m.active, members):
                member.status, member.reason = status_of(error)
    rows = [_finish(member, task, store, measured, len(members), device, report) for member in members]
    report({"event": "finished", "seconds": time.perf_counter() - begin})
    return failed + rows


def _task(job: Job, run: Run) -> Task:
    """A run's data, prepared for its recipe.

    Raises:
        DataError: the data changed since the run was planned.
    """
    data = tasks.open_data(run.task, run.data.name, job.data_root, job.data_path, run.data.options | job.data_options)
    if data.fingerprint != run.data.fingerprint:
        raise DataError(f"{data.path} changed since the runs were planned; give the same command again")
    return tasks.build(data, run.recipe, run.data_seed, job.workers)


def row_without_result(run: Run, status: Status, reason: str, device: torch.device) -> Row:
    """The row of a run that did not get as far as a number."""
    return Row(
        id=run.id, run=run, status=status, reason=reason, environment=environment.describe(device), finished=_now()
    )


def _teacher(
    job: Job, task: Task, store: Store, device: torch.device, report: Report
) -> tuple[Network | None, Measured | None]:
    """The job's teacher, loaded strictly and measured again, on the data that it was trained on.

    Raises:
        TeacherError: there is none, its file changed, or its score is off its record.
    """
    spec = next((run.teacher for run in job.runs if run.teacher), None)
    if spec is None:
        return None, None
    report({"event": "phase", "text": f"measuring the teacher {spec.student}"})
    recorded = None
    if job.teacher_file is not None:
        file = job.teacher_file
        if checkpoints.sha256(file) not in [run.teacher_file for run in job.runs]:
            raise TeacherError(f"{file} changed since the runs were planned; give the same command again")
    else:
        file, row = store.folder(spec.id) / STUDENT, store.row(spec.id)
        if row is None or row.status != "done" or row.metrics is None or row.student is None:
            raise TeacherError(f"teacher {spec.student} has no finished run ({spec.id}); run its table again")
        recorded = row.metrics.last[task.headline]
        if not file.exists():
            raise TeacherError(f"{file} is gone; delete {file.parent} and the teacher is trained again")
        if checkpoints.sha256(file) != row.student.sha256:
            raise TeacherError(
                f"{file} is not the file that was measured (its sha256 differs from the one in row.json); "
                f"delete {file.parent} and the teacher is trained again"
            )
    network = load_network(file, spec.student, task.classes, device).eval().requires_grad_(False)
    if job.runs[0].recipe.channels_last:
        network.to(memory_format=torch.channels_last)
    own = task if spec.data == job.runs[0].data else _task(job, spec)
    metrics, answers = own.evaluate_teacher(network, device)
    measured = metrics[task.headline]
    if recorded is not None and abs(measured - recorded) > TEACHER_TOLERANCE:
        raise TeacherError(
            f"teacher {spec.student} scores {measured:.2f} {task.headline} and {recorded:.2f} is on record: the data, "
            f"a library or the machine changed under it; delete {file.parent} and the teacher is trained again"
        )
    if own is not task and answers is not None:  # under noise a teacher is asked about other images
        _, answers = task.evaluate_teacher(network, device)
    record = TeacherRecord(network=spec.student, sha256=checkpoints.sha256(file), recorded=recorded, measured=measured)
    return network, Measured(record, answers)


def _finish(
    member: Member,
    task: Task,
    store: Store,
    teacher: Measured | None,
    cohort: int,
    device: torch.device,
    report: Report,
) -> Row:
    """Save the student, evaluate that file, write the row."""
    run = member.run
    row = None
    if member.active:
        try:
            row = _result(member, task, teacher if run.teacher else None, cohort, device)
        except Exception as error:  # noqa: BLE001 - it becomes the run's status
            member.status, member.reason = status_of(error)
    if row is None:
        assert member.status is not None
        row = row_without_result(run, member.status, member.reason, device)
        known = teacher.record if teacher is not None and run.teacher else None
        row = row.model_copy(update={"history": tuple(member.history), "teacher": known})
    _keep(store, row, report)
    if row.status == "done":
        member.drop_checkpoint()
    return row


def _result(member: Member, task: Task, teacher: Measured | None, cohort: int, device: torch.device) -> Row:
    member.check_finite()
    sha256 = member.save_student()
    begin = time.perf_counter()
    if member.run.online_teacher is not None:
        teacher = _online_record(member, member.run.online_teacher, task, device)
    saved = load_network(member.folder / STUDENT, member.run.student, task.classes, device)
    last, agreement = task.evaluate_student(saved, device, teacher.answers if teacher else None)
    member.wall_seconds += time.perf_counter() - begin
    untrained = Epoch(epoch=0, steps=0, lr=0.0, losses={}, metrics={})  # published weights, taken as they are
    history = list(member.history) or [untrained]
    history[-1] = history[-1].model_copy(update={"metrics": last})
    return Row(
        id=member.run.id,
        run=member.run,
        status="done",
        metrics=_metrics(history, agreement, task),
        history=tuple(history),
        teacher=teacher.record if teacher else None,
        student=StudentRecord(file=f"{member.run.id}/{STUDENT}", sha256=sha256),
        learned=member.method.learned(),
        cost=_cost(member, task, saved, cohort, device),
        environment=environment.describe(device),
        finished=_now(),
    )


def _online_record(member: Member, name: str, task: Task, device: torch.device) -> Measured:
    """What became of a teacher that was trained beside its student, the first of several: measured on what it sees."""
    sha256 = member.save_teacher()
    network = load_network(member.folder / TEACHER, name, task.classes, device)
    metrics, answers = task.evaluate_teacher(network, device)
    measured = metrics[task.headline]
    return Measured(TeacherRecord(network=name, sha256=sha256, recorded=None, measured=measured), answers)


def _metrics(history: list[Epoch], agreement: dict[str, float], task: Task) -> Metrics:
    evaluated = [epoch for epoch in history if epoch.metrics]
    best = max(evaluated, key=lambda epoch: epoch.metrics[task.headline])
    ten = [epoch.metrics for epoch in evaluated[-10:]]
    shared = [name for name in ten[-1] if all(name in metrics for metrics in ten)]
    return Metrics(
        last=history[-1].metrics | agreement,
        best=best.metrics,
        best_epoch=best.epoch,
        mean_last10={name: sum(metrics[name] for metrics in ten) / len(ten) for name in shared},
        evaluated=len(evaluated),
        evaluator=task.evaluator(reference=True),
    )


def _cost(member: Member, task: Task, network: Network, cohort: int, device: torch.device) -> Cost:
    parts = {name: sum(medians) / len(medians) if medians else 0.0 for name, medians in member.seconds.items()}
    step = sum(parts.values())
    return Cost(
        params=sum(parameter.numel() for parameter in network.parameters()),
        flops=task.flops(network),
        image_size=task.image_size,
        step_seconds=step,
        data_seconds=parts["data"],
        teacher_seconds=parts["teacher"],
        student_seconds=parts["student"],
        prepare_seconds=member.prepare_seconds,
        images_per_second=task.batch_size / step if step else 0.0,
        peak_memory=environment.peak_memory(device),
        wall_seconds=member.wall_seconds,
        cohort=cohort,
    )


def _keep(store: Store, row: Row, report: Report) -> Row:
    store.write(row)
    metrics = row.metrics.last if row.metrics else {}
    report({"event": "row", "run": row.id, "status": row.status, "reason": row.reason, "metrics": metrics})
    return row


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main() -> None:
    job = Job.model_validate_json(Path(sys.argv[1]).read_bytes())
    lines = sys.stdout
    sys.stdout = sys.stderr  # libraries print; progress must stay readable

    def report(event: dict[str, Any]) -> None:
        try:
            print(json.dumps(event), file=lines, flush=True)
        except BrokenPipeError:
            sys.exit("nobody listens any more")  # not a fault of the run: it goes on from where it was saved

    try:
        execute(job, report)
    except Exception as error:
        report({"event": "error", "status": status_of(error)[0], "reason": status_of(error)[1]})
        raise


if __name__ == "__main__":
    main()
