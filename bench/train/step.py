"""One training step: forwards of teacher and students, losses and gradients for each micro-batch, then the updates."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.base import Batch, MethodError, Outputs

from ..networks.base import Network
from ..spec.recipe import Recipe
from ..tasks.precision import autocast
from . import ranks
from .compiled import eager
from .failures import isolate_failures
from .lr_schedule import learning_rate
from .micro_batches import micro_batches
from .optimizer import set_learning_rate
from .student import Student
from .timing import StepTimer


def train_step(students: Sequence[Student], batch: Batch, teacher: Network | None, timer: StepTimer) -> None:
    """One step of every student of a cohort that is still in training, on the same batch.

    Args:
        students: of one cohort, so of one recipe.
        batch: on the students' device; this process's shard of it.
        teacher: their frozen teacher, if they have one; one forward of a micro-batch serves them all, and a second one
            those whose method wants its BatchNorm to count the batch.
        timer: of this step.
    """
    steps = [StudentStep(student, timer.empty()) for student in students if student.active]
    for step in steps:
        with isolate_failures(step.student), step.timer.part("student"):
            step.begin()
    recipe = steps[0].student.run.recipe
    for part, share in micro_batches(batch, ranks.shard().size(recipe.micro_batch_size)):
        current = [step for step in steps if step.student.active]
        readers = [step.student for step in current if step.student.uses_frozen_teacher]
        outputs = _teacher_outputs(teacher, readers, part, timer) if teacher is not None else {}
        for step in current:
            read = outputs.get(step.student.method.teacher_batch_statistics) if step.student in readers else None
            with isolate_failures(step.student), step.timer.part("student"):
                step.add_gradients(part, share, teacher, read)
    for step in [step for step in steps if step.student.active]:
        with isolate_failures(step.student):
            with step.timer.part("student"):
                step.update()
            step.student.record_seconds(timer + step.timer)


def student_step(
    student: Student, batch: Batch, teacher: Network | None, teacher_outputs: Outputs | None, timer: StepTimer
) -> None:
    """One student's step on a batch that is one micro-batch.

    Args:
        student: in training.
        batch: on the student's device.
        teacher: the frozen teacher.
        teacher_outputs: its outputs for the batch; None for a student that does not use it.
        timer: counts the teacher's work on the student's proposals for the teacher.
    """
    step = StudentStep(student, timer)
    step.begin()
    step.add_gradients(batch, 1.0, teacher, teacher_outputs)
    step.update()


class StudentStep:
    """One student's step: `begin`, `add_gradients` for every micro-batch, and `update`.

    Args:
        student: in training.
        timer: counts the teacher's work on the student's proposals for the teacher.

    Attributes:
        losses: every loss term so far, weighted by the share of the images that it is of.
    """

    def __init__(self, student: Student, timer: StepTimer) -> None:
        self.student, self.timer = student, timer
        self.losses: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Set the step's learning rate and progress, and train mode; no gradients."""
        student = self.student
        rate = learning_rate(student.run.recipe, student.steps, student.task.steps_per_epoch)
        set_learning_rate(student.optimizer, rate)
        student.update_progress()
        if student.online_teachers is not None:
            student.online_teachers.begin(student.steps)
        student.network.train()
        student.method.train()
        student.optimizer.zero_grad()

    def add_gradients(
        self, batch: Batch, share: float, teacher: Network | None, teacher_outputs: Outputs | None
    ) -> None:
        """Add the gradients of the losses of a micro-batch.

        Args:
            batch: the micro-batch.
            share: its share of the step's images, the weight of its losses.
            teacher: the frozen teacher.
            teacher_outputs: its outputs for the micro-batch; None for a student that does not use it.
        """
        student = self.student
        recipe, batch = student.run.recipe, _with_views(batch, student.views)
        if teacher_outputs is not None:
            views = {name: teacher_outputs.views[name] for name in batch.views}
            teacher_outputs = replace(teacher_outputs, views=views)
        with student.random_state.current():
            with autocast(recipe, student.device):
                outputs = student_outputs(student, batch)
                if student.online_teachers is not None:
                    teacher_outputs = student.online_teachers(batch.teacher_inputs, student.steps)
                elif teacher is not None and teacher_outputs is not None:
                    with self.timer.part("teacher"), torch.no_grad():
                        teacher_outputs = teacher.outputs_for_student(teacher_outputs, outputs, batch)
            task = {name: student.method.task_weight * value for name, value in outputs.losses.items()}
            terms = student.method(batch, outputs, teacher_outputs or outputs.detach())
            losses = joined(task, terms)
            if student.method.gradients == "separate" and terms:
                backward(task, share, again=True)
                with student.optimizer.distillation():
                    backward(terms, share)
            else:
                backward(losses, share)
        for name, value in losses.items():
            weighted = share * value.detach().float()
            self.losses[name] = self.losses[name] + weighted if name in self.losses else weighted

    def update(self) -> None:
        """Change the weights by the gradients, of all processes, and record the step."""
        student, recipe = self.student, self.student.run.recipe
        for _ in student.optimizer.each_gradient():
            student.gradient_mean.reduce()
            for parameters, norm in student.method.clip_norms():
                nn.utils.clip_grad_norm_(parameters, norm)
            if recipe.clip_norm:
                for parameters in student.clip_groups:
                    nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        student.optimizer.step()
        student.update_mean()
        student.record_losses(self.losses)


def backward(losses: dict[str, Tensor], share: float, again: bool = False) -> None:
    """Add the gradients of the sum of all loss terms, times a micro-batch's share of the images.

    Args:
        losses: by name.
        share: of the images.
        again: other terms of the same forward have their backward pass afterwards.
    """
    total = torch.stack(list(losses.values())).sum()
    (total if share == 1 else share * total).backward(retain_graph=again)


def _teacher_outputs(
    teacher: Network, readers: Sequence[Student], batch: Batch, timer: StepTimer
) -> dict[bool, Outputs]:
    """The outputs that students read of their frozen teacher, by `Method.teacher_batch_statistics`."""
    outputs = {}
    for by_batch in {student.method.teacher_batch_statistics for student in readers}:
        alike = [student for student in readers if student.method.teacher_batch_statistics == by_batch]
        views = {view for student in alike for view in student.views}
        with timer.part("teacher"):
            outputs[by_batch] = teacher_forward(teacher, _with_views(batch, views), alike[0].run.recipe, by_batch)
    return outputs


@torch.no_grad()
def teacher_forward(teacher: Network, batch: Batch, recipe: Recipe, batch_statistics: bool = False) -> Outputs:
    """A frozen teacher's outputs for a batch, in the recipe's precision for it.

    Args:
        teacher: in eval mode.
        batch: of one or several images.
        recipe: of the training.
        batch_statistics: its BatchNorm normalizes by the batch; it then runs eagerly.
    """
    with autocast(recipe, batch.inputs.device, teacher=True), _normalizing(teacher, recipe, batch_statistics):
        outputs: Outputs = teacher(batch.teacher_inputs)
        views = {name: teacher(view.teacher_inputs) for name, view in batch.views.items()}
    return replace(outputs, views=views)


@contextmanager
def _normalizing(network: Network, recipe: Recipe, by_batch: bool) -> Iterator[None]:
    """BatchNorm of a network in eval mode normalizes by the batch inside; its running statistics do not change."""
    if not by_batch:
        yield
        return
    norms = [norm for norm in network.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        with eager(recipe):
            yield
    finally:
        for norm in norms:
            norm.training, norm.track_running_stats = False, True


def student_outputs(student: Student, batch: Batch) -> Outputs:
    """A student's outputs for a batch, with its task losses, and those for the views, which come after it."""
    task, network = student.task, student.network
    if methods.joint_views(student.run.method):
        return _joint_outputs(student, batch)
    outputs = task.outputs(network, batch)
    outputs.views = {name: network(view.inputs) for name, view in batch.views.items()}
    return outputs


def _joint_outputs(student: Student, batch: Batch) -> Outputs:
    """As `student_outputs`, in one forward."""
    images, parts = len(batch.inputs), [batch, *batch.views.values()]
    every: Outputs = student.network(torch.cat([part.inputs for part in parts]))
    first, *others = (every.of(slice(i * images, (i + 1) * images)) for i in range(len(parts)))
    outputs = student.task.outputs(_Known(first), batch)
    outputs.views = dict(zip(batch.views, others, strict=True))
    return outputs


class _Known(Network):
    """Returns outputs that were computed with other images."""

    def __init__(self, outputs: Outputs) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor, targets: object = None) -> Outputs:
        return self.outputs


def _with_views(batch: Batch, names: Collection[str]) -> Batch:
    """The batch with these views alone."""
    return replace(batch, views={name: view for name, view in batch.views.items() if name in names})


def joined(task_losses: dict[str, Tensor], method_losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """All loss terms of a step.

    Raises:
        MethodError: a term of the method has the name of a task loss, which it would replace.
    """
    if both := task_losses.keys() & method_losses.keys():
        raise MethodError(f"{', '.join(sorted(both))} is a loss of the network and of the method; rename the method's")
    return task_losses | method_losses
