"""One training step: the teacher's forward, then forward, losses, backward and update of every student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.methods.base import Batch, MethodError, Outputs

from ..networks.base import Network
from ..spec.recipe import Recipe
from ..tasks.base import autocast
from .failures import isolate_failures
from .lr_schedule import learning_rate
from .optimizer import set_learning_rate
from .student import Student
from .timing import StepTimer


def train_step(students: Sequence[Student], batch: Batch, teacher: Network | None, timer: StepTimer) -> None:
    """One step of every student of a cohort that is still in training, on the same batch.

    Args:
        students: of one cohort, so of one recipe.
        batch: on the students' device.
        teacher: their frozen teacher, if they have one; one forward serves them all.
        timer: of this step.
    """
    active = [student for student in students if student.active]
    teacher_outputs = None
    if teacher is not None and any(student.uses_frozen_teacher for student in active):
        with timer.part("teacher"):
            teacher_outputs = teacher_forward(teacher, batch, active[0].run.recipe)
    for student in active:
        with isolate_failures(student):
            student_timer = timer.copy()
            with student_timer.part("student"):
                frozen = teacher_outputs if student.uses_frozen_teacher else None
                student_step(student, batch, teacher, frozen, student_timer)
            student.record_seconds(student_timer)


def student_step(
    student: Student, batch: Batch, teacher: Network | None, teacher_outputs: Outputs | None, timer: StepTimer
) -> None:
    """One student's forward, losses, backward and update.

    Args:
        student: in training.
        batch: on the student's device.
        teacher: the frozen teacher.
        teacher_outputs: its outputs for the batch; None for a student that does not use it.
        timer: counts the teacher's work on the student's proposals for the teacher.
    """
    recipe, task = student.run.recipe, student.task
    set_learning_rate(student.optimizer, learning_rate(recipe, student.steps, task.steps_per_epoch))
    student.network.train()
    student.method.train()
    with student.random_state.current():
        with autocast(recipe, student.device):
            outputs = task.outputs(student.network, batch)
            if student.online_teachers is not None:
                teacher_outputs = student.online_teachers(batch.teacher_inputs, student.steps)
            elif teacher is not None and teacher_outputs is not None:
                with timer.part("teacher"), torch.no_grad():
                    teacher_outputs = teacher.outputs_for_student(teacher_outputs, outputs, batch)
        losses = {name: student.method.task_weight * value for name, value in outputs.losses.items()}
        if teacher_outputs is not None:
            losses = joined(losses, student.method(batch, outputs, teacher_outputs))
        student.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
    if recipe.clip_norm:
        for parameters in student.clip_groups:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
    student.optimizer.step()
    if student.averaged is not None:
        student.averaged.update_parameters(student.network)
    student.record_losses(losses)


@torch.no_grad()
def teacher_forward(teacher: Network, batch: Batch, recipe: Recipe) -> Outputs:
    """A frozen teacher's outputs for a batch, in the recipe's precision."""
    with autocast(recipe, batch.inputs.device):
        outputs: Outputs = teacher(batch.teacher_inputs)
    return outputs


def joined(task_losses: dict[str, Tensor], method_losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """All loss terms of a step.

    Raises:
        MethodError: a term of the method has the name of a task loss, which it would replace.
    """
    if both := task_losses.keys() & method_losses.keys():
        raise MethodError(f"{', '.join(sorted(both))} is a loss of the network and of the method; rename the method's")
    return task_losses | method_losses
