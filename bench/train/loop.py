"""The training loop: one data stream and one teacher forward for a cohort of students.

Members never touch each other: each has its own weights, optimizer and random state, so on a CPU its weights end
bitwise equal to those of a solo run. A member that diverges or fails leaves; the rest go on.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from kdbench.methods.base import Batch, MethodError, Outputs

from ..errors import USER_ERRORS
from ..networks.base import Network
from ..records.row import Status
from ..spec.recipe import Recipe
from ..tasks.base import Task, autocast
from .lr_schedule import total_steps
from .student import Clock, DivergedError, Member, Prepared

Report = Callable[[dict[str, Any]], None]
Item = TypeVar("Item")

READ_EVERY = 10  # steps between readings of the losses, and between progress reports
SAVE_EVERY = 600.0  # seconds between savings within an epoch


def train(members: list[Member], task: Task, teacher: Network | None, device: torch.device, report: Report) -> None:
    """Train all members to their last epoch; each ends with `status` None (whole) or why it left.

    Every member is saved when its method's earlier phases are over, at the end of every epoch, and within a long one
    every `SAVE_EVERY` seconds. All share one recipe's data stream; `teacher` is frozen.
    """
    prepared: Prepared = {}
    for member in members:
        report({"event": "phase", "text": f"preparing {member.run.method}"})
        with leaving(member):
            member.prepare(teacher if member.wants_frozen else None, prepared)
    epochs = members[0].run.recipe.epochs
    while behind := [member for member in members if member.active and member.epoch < epochs]:
        # A member that was saved later than the others waits until they have caught up.
        begin = min(member.steps for member in behind)
        current = [member for member in behind if member.steps == begin]
        ahead = [member.steps for member in behind if member.steps > begin]
        _train_on(current, min(ahead, default=None), task, teacher, device, report)


def _train_on(
    members: list[Member],
    until: int | None,
    task: Task,
    teacher: Network | None,
    device: torch.device,
    report: Report,
) -> None:
    """From the step that all members have reached to step `until`, or to the end of the epoch if that comes first."""
    recipe, begin = members[0].run.recipe, members[0].steps
    epoch, done = divmod(begin, task.steps_per_epoch)
    epoch_end = min((epoch + 1) * task.steps_per_epoch, total_steps(recipe, task.steps_per_epoch))
    end = min(epoch_end, until or epoch_end)
    reached, counted = begin, time.perf_counter()
    saved = counted
    for batch, waited in _timed(task.batches(epoch, device, skip=done)):
        reached += 1
        _step(members, batch, teacher, Clock(device, exact=reached % READ_EVERY == 0, data=waited))
        if reached == end or reached % READ_EVERY == 0:
            _report_step(members, epoch, reached, task, report)
        if not any(member.active for member in members):
            return  # nobody is left to read the rest of the epoch for
        if reached == end:
            break
        # Only where losses were just read, and with enough steps ahead for whoever goes on to time one.
        if reached % READ_EVERY == 0 and end - reached >= READ_EVERY and time.perf_counter() - saved >= SAVE_EVERY:
            counted = _save(members, counted)
            saved = time.perf_counter()
    if reached != end:
        raise RuntimeError(f"the data ended at step {reached}, before the epoch did at step {epoch_end}")
    if end == epoch_end:
        _end_epoch(members, epoch, task, device, report, counted)
    else:
        _save(members, counted)


def _step(members: list[Member], batch: Batch, teacher: Network | None, clock: Clock) -> None:
    own = None
    if teacher is not None and any(m.active and m.wants_frozen for m in members):
        asked = clock.now()
        own = _show(teacher, batch, members[0].run.recipe, clock.device)
        if clock.exact:
            clock.teacher = clock.now() - asked
    for member in filter(lambda m: m.active, members):
        with leaving(member):
            member.step(batch, own if member.wants_frozen else None, teacher, clock)


def _end_epoch(
    members: list[Member], epoch: int, task: Task, device: torch.device, report: Report, since: float
) -> None:
    """Evaluate where that is due and save; time was counted up to `since`."""
    recipe = members[0].run.recipe
    for member in filter(lambda m: m.active, members):
        with leaving(member):
            whole = member.steps == total_steps(recipe, task.steps_per_epoch)
            # The last epoch is evaluated from the saved file, by the reference evaluator.
            due = (epoch + 1) % recipe.eval_every == 0 and not whole
            metrics = task.evaluate(member.evaluated, device, reference=False) if due else {}
            member.end_epoch(metrics)
            if whole:
                member.epoch = recipe.epochs
            member.wall_seconds += time.perf_counter() - since
            member.save()
            report({"event": "epoch", "run": member.run.id, "epoch": epoch + 1, "metrics": metrics})


def _save(members: list[Member], since: float) -> float:
    """Save all; time was counted up to `since`, and is up to what is returned."""
    now = time.perf_counter()
    for member in filter(lambda m: m.active, members):
        with leaving(member):
            member.wall_seconds += now - since
            member.save()
    return now


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


def _timed(items: Iterator[Item]) -> Iterator[tuple[Item, float]]:
    """Each item, and how many seconds it was waited for."""
    while True:
        begin = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, time.perf_counter() - begin
