"""The training loop: one data stream and one teacher forward for a cohort of students.

Members never touch each other: each has its own weights, optimiser and random state, so on a CPU its weights end
bitwise equal to those of a solo run. A member that diverges or fails leaves; the rest go on.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from methods.base import Batch, MethodError, Outputs

from .errors import USER_ERRORS
from .networks.base import Network
from .recipe import Recipe
from .rows import Status
from .steps.capture import Recorder, Shared
from .steps.member import Clock, DivergedError, Member, Prepared
from .steps.schedules import total_steps
from .tasks.base import Task, autocast

Report = Callable[[dict[str, Any]], None]
Item = TypeVar("Item")

READ_EVERY = 10  # steps between readings of the losses, and between progress reports


def train(
    members: list[Member],
    task: Task,
    teacher: Network | None,
    device: torch.device,
    report: Report,
    recorder: Recorder | None = None,
) -> None:
    """Train all members to their last epoch; each ends with `status` None (whole) or why it left.

    Every member is saved at the end of every epoch. All share one recipe's data stream; `teacher` is frozen. With a
    recorder, steps are captured and replayed.
    """
    with recorder.stream() if recorder is not None else nullcontext():
        _train(members, task, teacher, device, report, Shared(recorder))


def _train(
    members: list[Member], task: Task, teacher: Network | None, device: torch.device, report: Report, shared: Shared
) -> None:
    prepared: Prepared = {}
    for member in members:
        report({"event": "phase", "text": f"preparing {member.run.method}"})
        with leaving(member):
            member.prepare(teacher if member.wants_frozen else None, prepared)
    recipe = members[0].run.recipe
    for epoch in range(min(member.epoch for member in members), recipe.epochs):
        # A member that was saved later than the others waits until they have caught up.
        current = [member for member in members if member.active and member.epoch == epoch]
        if not current:
            continue
        if _train_epoch(epoch, current, task, teacher, device, report, shared):
            return


def _train_epoch(
    epoch: int,
    members: list[Member],
    task: Task,
    teacher: Network | None,
    device: torch.device,
    report: Report,
    shared: Shared,
) -> bool:
    """One epoch; returns whether `max_steps` ended the run in it."""
    recipe = members[0].run.recipe
    begin = time.perf_counter()
    data_seconds: list[float] = []
    teacher_seconds: list[float] = []
    reached = epoch * task.steps_per_epoch
    for given in _timed(task.batches(epoch, device), data_seconds):
        reached += 1
        batch, recorder = shared.place(given)
        clock = Clock(device, exact=reached % READ_EVERY == 0)
        own = None
        if teacher is not None and any(m.active and m.wants_frozen for m in members):
            asked, replaying = clock.now(), shared.shown.captured
            own = shared.shown(partial(_show, teacher, batch, recipe, device), recorder)
            if clock.exact and replaying == shared.shown.captured:
                teacher_seconds.append(clock.now() - asked)
        for member in filter(lambda m: m.active, members):
            with leaving(member):
                member.step(batch, own if member.wants_frozen else None, teacher, clock, recorder)
        last = reached == (epoch + 1) * task.steps_per_epoch or reached == recipe.max_steps
        if last or reached % READ_EVERY == 0:
            _report_step(members, epoch, reached, task, report)
        if last:
            break
        if not any(member.active for member in members):
            return False  # nobody is left to read the rest of the epoch for
    stopped = reached == recipe.max_steps
    whole = stopped or epoch + 1 == recipe.epochs
    for member in filter(lambda m: m.active, members):
        with leaving(member):
            # The last epoch is evaluated from the saved file, by the reference evaluator.
            due = (epoch + 1) % recipe.eval_every == 0 and not whole
            metrics = task.evaluate(member.evaluated, device, reference=False) if due else {}
            member.end_epoch(metrics, data_seconds, teacher_seconds if member.wants_frozen else [])
            if whole:
                member.epoch = recipe.epochs
            member.wall_seconds += time.perf_counter() - begin
            member.save()
            report({"event": "epoch", "run": member.run.id, "epoch": epoch + 1, "metrics": metrics})
    return stopped


@torch.no_grad()
def _show(teacher: Network, batch: Batch, recipe: Recipe, device: torch.device) -> Outputs:
    with autocast(recipe, device):
        shown: Outputs = teacher(batch.teacher_inputs)
    return shown


def _report_step(members: list[Member], epoch: int, reached: int, task: Task, report: Report) -> None:
    losses = {}
    for member in filter(lambda m: m.active, members):
        with leaving(member):
            losses[member.run.id] = member.read_losses()
    recipe = members[0].run.recipe
    total = total_steps(recipe, task.steps_per_epoch)
    report({"event": "step", "epoch": epoch + 1, "step": reached, "steps": total, "losses": losses})


@contextmanager
def leaving(member: Member) -> Iterator[None]:
    """Whatever goes wrong inside concerns this member alone: it leaves with a status, the rest go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it becomes the run's status and stands in its row
        member.status, member.reason = status_of(error)


def status_of(error: Exception) -> tuple[Status, str]:
    """How a run that met `error` ends, and why in words."""
    if isinstance(error, DivergedError | FloatingPointError):  # the latter where detectron2 finds boxes without numbers
        return "diverged", str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out-of-memory", f"{_first_line(error)}; try --cohort 1, or a smaller batch or image with --set"
    if isinstance(error, (*USER_ERRORS, MethodError)):
        return "failed", str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return "failed", f"{type(error).__name__}: {_first_line(error)} ({Path(where.filename).name}:{where.lineno})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _timed(items: Iterator[Item], seconds: list[float]) -> Iterator[Item]:
    """The same items; how long each was waited for is appended to `seconds`."""
    while True:
        begin = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        seconds.append(time.perf_counter() - begin)
        yield item
