"""Training steps of a cell on an emulated CUDA device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F

from kdbench import methods, networks
from kdbench.contract.emulated_cuda import CUDA, EmulatedCuda
from kdbench.contract.findings import Record
from kdbench.methods.base import Batch
from kdbench.networks.base import Network
from kdbench.spec.run import Run
from kdbench.tasks.augment import reduce_resolution
from kdbench.tasks.base import Task
from kdbench.train import checkpointing
from kdbench.train.calibration import synthetic_task
from kdbench.train.lr_schedule import total_steps
from kdbench.train.preparation import prepare
from kdbench.train.step import student_step, teacher_forward
from kdbench.train.student import Student
from kdbench.train.timing import StepTimer

STORED = (32, 32)
"""Height and width of CIFAR's images."""
PREPARED = 2
"""Batches of a method's phases before the training, which end with their batches."""


@dataclass(frozen=True)
class Steps:
    """What training steps do on the device.

    Attributes:
        before: in the method's phases before the training.
        teacher: in a forward of the frozen teacher.
        first: in the student's first step, in which the optimizer's states are made.
        last: in its last step of the training, when every warm-up is over.
    """

    before: Record
    teacher: Record
    first: Record
    last: Record


def run_steps(run: Run) -> Steps:
    """A run's phases before the training, and the first and the last step of it."""
    torch.manual_seed(0)
    with EmulatedCuda() as cuda:
        task = make_task(run)
        teacher = None if run.teacher is None else on_device(cuda, run.teacher.student, len(task.classes))
        student = Student(run, task, None if teacher is None else teacher.info, Path(), CUDA)
        batch, outputs = next(task.batches(0, CUDA, views=student.views)), None
        with cuda.recorded() as before, mock.patch.object(checkpointing, "save"):
            if teacher is not None:
                prepare(student, teacher, {})
        student.prepared = True
        with cuda.recorded() as forward:
            if teacher is not None and student.uses_frozen_teacher:
                outputs = teacher_forward(teacher, batch, run.recipe)
        with cuda.recorded() as first:  # by `student_step`, which raises errors where `train_step` ends a student's run
            student_step(student, batch, teacher, outputs, StepTimer(CUDA, exact=False))
        student.steps = total_steps(run.recipe, task.steps_per_epoch) - 1
        with cuda.recorded() as last:
            student_step(student, batch, teacher, outputs, StepTimer(CUDA, exact=False))
        return Steps(before, forward, first, last)


def make_task(run: Run) -> Task:
    """The task of a run on made-up batches, whose phases before the training end after a few of them."""
    task = synthetic_task(run, STORED)
    batches, image = task.batches, run.recipe.image

    def made(epoch: int, device: torch.device, views: Sequence[str] = ()) -> Iterator[Batch]:
        for batch in batches(epoch, device, views=views):
            if getattr(image, "mixup", 0.0):
                batch.targets = F.one_hot(batch.targets, len(task.classes)).float()
            if resolution := run.data.options.get("resolution"):
                full = batch.inputs
                batch = replace(batch, inputs=reduce_resolution(full, resolution), full_inputs=full)
            yield batch

    task.batches = made  # type: ignore[method-assign]
    prepared = list(islice(made(0, CUDA, methods.views(run.method)), PREPARED))
    task.endless = lambda *_, **__: iter(prepared)  # type: ignore[method-assign]
    return task


def on_device(cuda: EmulatedCuda, name: str, classes: int) -> Network:
    """A teacher whose tensors are put on the device where they are, which is what `to` would copy."""
    network = _built(name, classes)
    for tensor in (*network.parameters(), *network.buffers()):
        cuda.put_on_cuda(tensor)
    return network


@lru_cache(maxsize=2)
def _built(name: str, classes: int) -> Network:
    """A teacher with random weights on the CPU; building one takes longer than a step."""
    return networks.build(name, classes).eval().requires_grad_(False)
