"""The row of a run: its student saved, that file evaluated, and what it cost."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import torch

from ..networks.base import Network
from ..networks.load import load_network
from ..records import environment
from ..records.class_scores import OF_TASK, ClassScores, write_class_scores
from ..records.code import code_of
from ..records.row import Cost, Epoch, Metrics, Row, Status, StudentRecord, TeacherRecord
from ..records.store import Store
from ..spec.run import Run
from ..tasks.base import Task
from ..tasks.measurement import ByClass
from . import checkpointing, ranks
from .checkpointing import STUDENT, TEACHER
from .events import Report, RowEvent
from .failures import blame, recorded_status
from .frozen_teacher import MeasuredTeacher
from .interruption import interruption
from .student import Student


def finish(
    student: Student,
    task: Task,
    store: Store,
    teacher: MeasuredTeacher | None,
    cohort: int,
    device: torch.device,
    report: Report,
) -> Row:
    """Save the student, evaluate that file, write the row.

    Raises:
        Interrupted: a signal has asked the job to stop.
        StoreError: the row cannot be written.
    """
    interruption.check()
    run = student.run
    row = None
    if advice := store.irreplaceable(run.id):  # the files beside it stay, too
        student.status, student.reason = "failed", advice
    if student.active:
        try:
            row, scores = _result(student, task, teacher if run.teacher else None, cohort, device)
        except Exception as error:  # noqa: BLE001 - it becomes the run's status
            blame([run.id], error)
            student.status, student.reason = recorded_status(error)
    if row is None:
        assert student.status is not None
        row = row_without_result(run, student.status, student.reason, device)
        known = teacher.record if teacher is not None and run.teacher else None
        row = row.model_copy(update={"history": tuple(student.history), "teacher": known})
    if ranks.rank() > 0:
        return row
    with interruption.deferred():  # a run that has its row is reported, too, and has no checkpoint
        if row.status == "done":
            write_class_scores(student.folder, scores)  # before the row, which says that the run is done
        row = keep(store, row, report)
        if row.status == "done":
            checkpointing.delete(student.folder)
    return row


def row_without_result(run: Run, status: Status, reason: str, device: torch.device | str) -> Row:
    """The row of a run without a result.

    Args:
        run: the spec.
        status: other than done.
        reason: why.
        device: its name alone where it is not to be used, because it may be what failed.
    """
    return Row(
        id=run.id,
        run=run,
        code=code_of(run),
        status=status,
        reason=reason,
        environment=environment.describe(device),
        finished=_now(),
    )


def keep(store: Store, row: Row, report: Report) -> Row:
    """Write a row and report it; one of another version that is in its place stays, and is reported as a failure."""
    if advice := store.irreplaceable(row.id):
        row = row.model_copy(update={"status": "failed", "reason": advice, "metrics": None})
    else:
        store.write(row)
    metrics = row.metrics.last if row.metrics else {}
    report(RowEvent(run=row.id, status=row.status, reason=row.reason, metrics=metrics))
    return row


def _result(
    student: Student, task: Task, teacher: MeasuredTeacher | None, cohort: int, device: torch.device
) -> tuple[Row, ClassScores]:
    student.check_finite()
    student.update_progress()  # for what the method computes in `learned`
    begin = time.perf_counter()
    sha256 = ranks.of_first(lambda: checkpointing.save_student(student))
    if student.run.online_teacher is not None:
        teacher = _online_record(student, student.run.online_teacher, task, device)
    saved = load_network(student.folder / STUDENT, student.run.student, task.classes, device)
    predictions = teacher.predictions if teacher else None
    measured = task.measure(saved, device, teacher=predictions, shard=ranks.shard())
    student.wall_seconds += time.perf_counter() - begin
    untrained = Epoch(epoch=0, steps=0, lr=0.0, losses={}, metrics={})  # published weights, taken as they are
    history = list(student.history) or [untrained]
    history[-1] = history[-1].model_copy(update={"metrics": measured.metrics})
    row = Row(
        id=student.run.id,
        run=student.run,
        code=student.code,
        status="done",
        metrics=_metrics(history, measured.agreement, task),
        history=tuple(history),
        teacher=teacher.record if teacher else None,
        student=StudentRecord(file=f"{student.run.id}/{STUDENT}", sha256=sha256),
        empty_classes=task.data.empty_classes,
        learned=student.method.learned(),
        cost=_cost(student, task, saved, cohort, device),
        environment=environment.describe(device, student.compiled),
        finished=_now(),
    )
    return row, _class_scores(student.run, sha256, task, measured.by_class, teacher)


def _class_scores(run: Run, sha256: str, task: Task, found: ByClass, teacher: MeasuredTeacher | None) -> ClassScores:
    return ClassScores(
        run=run.id,
        student=sha256,
        metric=OF_TASK[run.task],
        classes=task.classes,
        counts=found.counts,
        scores=found.scores,
        teacher=teacher.by_class.scores if teacher else None,
        confusions=found.confusions,
    )


def _online_record(student: Student, name: str, task: Task, device: torch.device) -> MeasuredTeacher:
    """What became of a teacher that was trained beside its student, the first of several: measured on what it sees."""
    sha256 = ranks.of_first(lambda: checkpointing.save_teacher(student))
    network = load_network(student.folder / TEACHER, name, task.classes, device)
    found = task.measure(network, device, full=True, shard=ranks.shard())
    record = TeacherRecord(network=name, sha256=sha256, recorded=None, measured=found.metrics[task.headline])
    return MeasuredTeacher(record, found.by_class, found.predictions)


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


def _cost(student: Student, task: Task, network: Network, cohort: int, device: torch.device) -> Cost:
    parts = {name: sum(medians) / len(medians) if medians else 0.0 for name, medians in student.seconds.items()}
    step = sum(parts[name] for name in ("data", "teacher", "student"))
    return Cost(
        params=sum(parameter.numel() for parameter in network.used_parameters()),
        flops=task.flops(network),
        image_size=task.image_size,
        step_seconds=step,
        data_seconds=parts["data"],
        teacher_seconds=parts["teacher"],
        student_seconds=parts["student"],
        prepare_seconds=student.prepare_seconds,
        images_per_second=task.batch_size / step if step else 0.0,
        data_wait=student.data_wait,
        peak_memory=environment.peak_memory(device),
        wall_seconds=student.wall_seconds,
        cohort=cohort,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
