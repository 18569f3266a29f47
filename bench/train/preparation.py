"""The phases of a method before the training: modules on the teacher's side, and first epochs of the student."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdbench.methods.base import Batch, Method, MethodError

from ..errors import DivergedError
from ..networks.base import Detector, Network
from ..spec.schema import digest
from ..tasks.precision import autocast
from . import checkpointing, ranks
from .micro_batches import micro_batches
from .optimizer import build_optimizer, trained_parameters
from .ranks import GradientMean
from .rng import RandomState
from .step import backward, teacher_forward
from .student import Student

Prepared = dict[int, tuple[dict[str, Tensor], float]]
"""State and seconds of the preparations of a cohort, by their seed."""


def prepare(student: Student, teacher: Network, cache: Prepared) -> None:
    """Run the phases of a student's method, and save the student after them; a resumed student has none to run.

    Args:
        student: uses the teacher.
        teacher: frozen.
        cache: preparations of the cohort's other students. Each has a random state seeded by the method's
            `preparation_key` and the student network, so its result does not depend on which student ran it.
    """
    if student.prepared:
        return
    if any(module.inherits_head for module in student.method.modules() if isinstance(module, Method)):
        inherit_head(student, teacher)
    for module in student.method.modules():
        if isinstance(module, Method) and type(module).prepare is not Method.prepare:
            _prepare_method(module, student, teacher, cache)
    student.synchronize_batchnorm()
    if student.method.initial_epochs:
        begin = time.perf_counter()
        student.network.train()
        student.method.train()
        with _fixed(student.method.fixed_in_initial_phase()):
            _initial_phase(student, teacher)
        student.prepare_seconds += time.perf_counter() - begin
    student.prepared = True
    if student.prepare_seconds:
        checkpointing.save(student)


@torch.no_grad()
def inherit_head(student: Student, teacher: Network) -> None:
    """Give a student the teacher's tensors outside of the backbone, where it has any of the same name and shape.

    Raises:
        MethodError: there is none, or it is unknown what belongs to the backbone.
    """
    network = student.network
    prefixes = network.backbone_prefixes if isinstance(network, Detector) else ()
    given, own = teacher.state_dict(), network.state_dict()
    fitting = [name for name, value in own.items() if name in given and given[name].shape == value.shape]
    head = [name for name in fitting if prefixes and not name.startswith(prefixes)]
    if not head:
        raise MethodError(
            f"{student.run.method}: {student.run.student} has no tensors outside of its backbone that fit those of its "
            "teacher, whose head it is to start with; choose a teacher of the same family, or set inherit to false"
        )
    for name in head:
        own[name].copy_(given[name])
    if student.averaged is not None:
        student.averaged.module.load_state_dict(network.state_dict())


def _prepare_method(method: Method, student: Student, teacher: Network, cache: Prepared) -> None:
    seed = int(digest([student.run.init_seed, "prepare", method.preparation_key]), 16) % 2**63
    if seed not in cache:
        begin = time.perf_counter()
        state = ranks.of_first(lambda: _prepared(method, student, teacher, seed))
        cache[seed] = state, time.perf_counter() - begin
    state, seconds = cache[seed]
    method.load_state_dict(method.state_dict() | state)
    student.prepare_seconds += seconds


def _prepared(method: Method, student: Student, teacher: Network, seed: int) -> dict[str, Tensor]:
    """The state of a method after its preparation, on whole batches."""
    with RandomState(seed, student.device).current():
        method.prepare(teacher, _teacher_batches(student))  # type: ignore[arg-type]
    # Sent through the CPU, for other processes would read tensors of a GPU onto that very one.
    device = student.device if ranks.world_size() == 1 else "cpu"
    states = method.state_dict().items()
    return {n: v.clone().to(device) for n, v in states if n.startswith(method.prepared_prefixes)}


def _teacher_batches(student: Student) -> Iterator[Batch]:
    """Whole batches without end, with the teacher's inputs in place of the student's."""
    for batch in student.task.endless(student.device, "prepare", views=student.views):
        views = {name: _teacher_inputs(view) for name, view in batch.views.items()}
        yield replace(_teacher_inputs(batch), views=views)


def _teacher_inputs(batch: Batch) -> Batch:
    return replace(batch, inputs=batch.teacher_inputs, full_inputs=None)


@contextmanager
def _fixed(modules: list[nn.Module]) -> Iterator[None]:
    """The modules in eval mode, and their parameters without gradients."""
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    for module in modules:
        module.eval().requires_grad_(False)
    yield
    for parameter in trained:
        parameter.requires_grad_(True)


def _initial_phase(student: Student, teacher: Network) -> None:
    """The method's `initial_epochs`, at the recipe's first learning rate and without the task loss.

    Raises:
        DivergedError: a loss term is not finite at the end of an epoch.
    """
    recipe, task, method = student.run.recipe, student.task, student.method
    optimizer = build_optimizer(recipe, [student.network], method)
    mean = GradientMean(trained_parameters(optimizer), [student.network, method])
    steps, shard = min(method.initial_epochs * task.steps_per_epoch, recipe.max_steps or 2**62), ranks.shard()
    for step, batch in zip(range(steps), task.endless(student.device, "initial", shard), strict=False):
        optimizer.zero_grad()
        for part, share in micro_batches(batch, shard.size(recipe.micro_batch_size)):
            with student.random_state.current(), autocast(recipe, student.device):
                teacher_outputs = teacher_forward(teacher, part, recipe)
                outputs = task.outputs(student.network, part)
                losses = method(part, outputs, teacher_outputs, initial=True)
            backward(losses, share)
            for name, value in losses.items():
                if (step + 1) % task.steps_per_epoch == 0 and not (value := ranks.mean(value.detach())).isfinite():
                    raise DivergedError(f"loss term {name} is {value.item()} in the method's initial phase")
        mean.reduce()
        optimizer.step()
