"""The training loop of a cohort: one data stream and one teacher forward for several students.

Students share nothing that changes: each has its weights, optimizer and random state, so on a CPU its weights are
bitwise equal to those of a run that is trained alone. When a student diverges or fails, the others continue.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kdbench.methods.base import Batch

from ..networks.base import Network
from ..spec.recipe import Recipe
from ..tasks.base import Task
from . import checkpointing, ranks
from .compiled import compile_networks, eager
from .data_wait import Waiting
from .events import EpochEvent, PhaseEvent, Report, StepEvent, WarningEvent
from .failures import isolate_failures
from .interruption import Interrupted, interruption
from .lr_schedule import learning_rate, total_steps
from .micro_batches import micro_batches
from .preparation import Prepared, prepare
from .step import train_step
from .student import Student
from .timing import DataWaits, StepTimer

READ_EVERY = 10  # steps between readings of the losses, and between progress reports
SAVE_EVERY = 600.0  # seconds between checkpoints within an epoch
SAVE_SHARE = 0.05
"""Of the time: where saving takes longer than a second, epochs are left out until it takes no more than this."""


def train(students: list[Student], task: Task, teacher: Network | None, device: torch.device, report: Report) -> None:
    """Train all students to their last epoch; a student's `status` is None afterwards, or says how it ended early.

    Several processes may train together (`ranks`): each calls this, and they stop and save at the same steps.

    Every student is saved after the phases of its method, at the end of every epoch that takes long enough (see
    `SAVE_SHARE`), after the last epoch, within a long epoch every `SAVE_EVERY` seconds, and where a signal asks the job
    to stop. Its time includes saving.

    Args:
        students: new or resumed, of one recipe, data set and seed.
        task: their data.
        teacher: frozen; None if no student uses one.
        device: where everything is.
        report: receives progress events.

    Raises:
        Interrupted: a signal has asked the job to stop; the students are saved.
    """
    cohort = _Cohort(students, task, teacher, device, report)
    _prepare(cohort)
    with interruption.deferred():
        try:
            _train_epochs(cohort)
        except Exception as error:
            if interruption.asked:  # the same signal has ended the loader's processes
                raise Interrupted from error
            raise


def _train_epochs(cohort: _Cohort) -> None:
    while behind := [student for student in cohort.active if student.epoch < cohort.recipe.epochs]:
        # Students that were resumed at a later step wait until the others have reached it.
        first = min(student.steps for student in behind)
        later = [student.steps for student in behind if student.steps > first]
        current = [student for student in behind if student.steps == first]
        _train_epoch(replace(cohort, students=current), min(later, default=None))
        if ranks.any_of(interruption.asked):
            raise Interrupted


@dataclass
class _Saving:
    """How long the last saving of all students took, and when it ended; in seconds."""

    took: float = 0.0
    ended: float = -math.inf

    @property
    def is_due(self) -> bool:
        pause = min(SAVE_EVERY, self.took / SAVE_SHARE) if self.took > 1 else 0.0
        return time.perf_counter() - self.ended >= pause


@dataclass(frozen=True)
class _Cohort:
    """The students that train together, and what they share."""

    students: list[Student]
    task: Task
    teacher: Network | None
    device: torch.device
    report: Report
    saving: _Saving = field(default_factory=_Saving)
    waiting: Waiting = field(default_factory=Waiting)

    @property
    def active(self) -> list[Student]:
        return [student for student in self.students if student.active]

    @property
    def recipe(self) -> Recipe:
        return self.students[0].run.recipe

    @property
    def total_steps(self) -> int:
        return total_steps(self.recipe, self.task.steps_per_epoch)


def _prepare(cohort: _Cohort) -> None:
    cache: Prepared = {}
    for student in cohort.students:
        cohort.report(PhaseEvent(text=f"preparing {student.run.method}"))
        if cohort.teacher is not None and student.uses_frozen_teacher:
            with isolate_failures(student):
                prepare(student, cohort.teacher, cache)
        with isolate_failures(student):
            student.synchronize_batchnorm()


def _train_epoch(cohort: _Cohort, until: int | None) -> None:
    """Train from the step that all students have reached to the end of the epoch, or to step `until` if it is earlier.

    Raises:
        RuntimeError: the data ended before the epoch.
    """
    task, step = cohort.task, cohort.students[0].steps
    epoch, done = divmod(step, task.steps_per_epoch)
    epoch_end = min((epoch + 1) * task.steps_per_epoch, cohort.total_steps)
    end = min(epoch_end, until or epoch_end)
    saved = counted = time.perf_counter()  # of the last checkpoint; up to which `wall_seconds` are counted
    pace = _Pace(step, saved)
    waits = DataWaits(cohort.device)
    views = tuple(dict.fromkeys(view for student in cohort.active for view in student.views))
    batches = task.batches(epoch, cohort.device, skip=done, shard=ranks.shard(), views=views)
    for batch in waits.timed(batches):
        _compile(cohort, batch)
        step += 1
        timer = StepTimer(cohort.device, exact=step % READ_EVERY == 0)
        train_step(cohort.students, batch, cohort.teacher, timer)
        stop = _is_asked_to_stop(step)
        if step == end or step % READ_EVERY == 0 or stop:
            _report_step(cohort, epoch, step, pace, waits)
        if not cohort.active:
            return
        if step == end:
            break
        if stop:
            _save(cohort, counted)
            return
        # Losses must have been read, and a resumed run must have steps left in the epoch to be timed.
        if step % READ_EVERY == 0 and end - step >= READ_EVERY and _is_over(SAVE_EVERY, saved):
            counted = _save(cohort, counted)
            saved = time.perf_counter()
            pace = _Pace(step, saved)
            waits.restart()
    if step != end:
        raise RuntimeError(f"the data ended at step {step}, before the epoch did at step {epoch_end}")
    if end == epoch_end:
        _finish_epoch(cohort, epoch, counted)
    else:
        _save(cohort, counted)


def _compile(cohort: _Cohort, batch: Batch) -> None:
    """Compile the networks of students that have not trained in this process, if the recipe asks for it."""
    students = [student for student in cohort.students if student.compiled is None]
    if not cohort.recipe.compile or not students:
        return
    part, _ = micro_batches(batch, ranks.shard().size(cohort.recipe.micro_batch_size))[0]
    networks: list[tuple[Network, Tensor]] = [] if cohort.teacher is None else [(cohort.teacher, part.teacher_inputs)]
    for student in students:
        networks.append((student.network.train(), part.inputs))
        if student.online_teachers is not None:
            networks += [(teacher.train(), part.teacher_inputs) for teacher in student.online_teachers.trained]
    cohort.report(PhaseEvent(text="compiling networks"))
    problem = compile_networks(networks, cohort.recipe)
    for student in students:
        student.compiled = not problem
    if problem:
        cohort.report(WarningEvent(text=f"{problem}; the networks of this job train eagerly"))


def _is_asked_to_stop(step: int) -> bool:
    """Whether the job has to stop after a step; several processes ask each other less often."""
    if ranks.world_size() > 1 and step % READ_EVERY:
        return False
    return ranks.any_of(interruption.asked)


def _is_over(seconds: float, since: float) -> bool:
    return ranks.first_says(time.perf_counter() - since >= seconds)


def _finish_epoch(cohort: _Cohort, epoch: int, counted: float) -> None:
    """Evaluate the students if it is due, and save them; `wall_seconds` include the time from `counted` on."""
    recipe = cohort.recipe
    last = cohort.active[0].steps == cohort.total_steps  # the first student may have failed before
    save = last or ranks.first_says(cohort.saving.is_due)
    took = 0.0
    for student in cohort.active:
        with isolate_failures(student):
            # After the last epoch the saved file is evaluated, by the reference evaluator.
            due = (epoch + 1) % recipe.eval_every == 0 and not last
            metrics = _evaluate(cohort, student) if due else {}
            student.finish_epoch(metrics)
            if last:
                student.epoch = recipe.epochs
            begin = _count(student, counted)
            if save:
                checkpointing.save(student)
                took += time.perf_counter() - begin
            cohort.report(EpochEvent(run=student.run.id, epoch=epoch + 1, step=student.steps, metrics=metrics))
    if save:
        cohort.saving.took, cohort.saving.ended = took, time.perf_counter()
    counted = _count_rest(cohort)
    if not save and ranks.any_of(interruption.asked):
        _save(cohort, counted)


def _evaluate(cohort: _Cohort, student: Student) -> dict[str, float]:
    network = student.evaluated_network
    with eager(cohort.recipe):
        return cohort.task.evaluate(network, cohort.device, reference=False, shard=ranks.shard())


def _save(cohort: _Cohort, counted: float) -> float:
    """Save all students; their `wall_seconds` include the time up to the returned one."""
    begin = time.perf_counter()
    for student in cohort.active:
        with isolate_failures(student):
            _count(student, counted)
            checkpointing.save(student)
    cohort.saving.took, cohort.saving.ended = time.perf_counter() - begin, time.perf_counter()
    return _count_rest(cohort)


def _count(student: Student, counted: float) -> float:
    """Add the time from `counted` until now to a student's `wall_seconds`; returns now."""
    now = time.perf_counter()
    student.wall_seconds += now - counted
    student.counted = now
    return now


def _count_rest(cohort: _Cohort) -> float:
    """Add what saving took, and the others of the cohort, to all `wall_seconds`; returns now."""
    now = time.perf_counter()
    for student in cohort.active:
        student.wall_seconds += now - student.counted
    return now


@dataclass
class _Pace:
    """How fast students train: the last step that was reported, and when. Evaluation and saving begin a new one."""

    step: int
    time: float

    def steps_per_second(self, step: int) -> float:
        """Since the last call, up to `step`."""
        now = time.perf_counter()
        steps, seconds = step - self.step, now - self.time
        self.step, self.time = step, now
        return steps / seconds


def _report_step(cohort: _Cohort, epoch: int, step: int, pace: _Pace, waits: DataWaits) -> None:
    losses = {}
    for student in cohort.active:
        with isolate_failures(student):
            losses[student.run.id] = student.read_losses()
    waited = waits.read()
    for student in cohort.active:
        student.record_waits(waited)
    event = StepEvent(
        epoch=epoch + 1,
        step=step,
        steps=cohort.total_steps,
        losses=losses,
        lr=learning_rate(cohort.recipe, step - 1, cohort.task.steps_per_epoch),
        images_per_second=pace.steps_per_second(step) * cohort.task.batch_size,
        data_wait=waited.share,
    )
    cohort.report(event)
    if advice := cohort.waiting.advice(waited, cohort.task):
        cohort.report(WarningEvent(text=advice))
