"""Whether the networks and the method of a run that a request added can be used together, tried before any training."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from kdbench import methods
from kdbench.methods.base import Batch, MethodError, Outputs, Setting

from .. import networks, tasks
from ..errors import SpecError
from ..networks.base import Network
from ..spec.run import Run
from ..tasks.base import Shapes
from ..train import online_teachers
from .tracing import UntracedError, loss_of, traced

IMAGES = 4  # of a trial


def misfit(run: Run, shapes: Shapes) -> str:
    """Why a run's networks and method cannot be used together; empty where a step of it can be computed.

    Fake tensors tell for most; what fails on them is computed on a few images of zeros.

    Args:
        run: of any method.
        shapes: of its micro-batches.

    Raises:
        MethodError: an option that fits no networks on this data, or is too large.
        SpecError: a network that cannot be built, or has no gradient where it is trained.
    """
    methods.build(run.method, tasks.get(shapes.task).example_setting(shapes.samples, shapes.classes), **run.options)
    small = replace(shapes, batch=min(shapes.batch, IMAGES))
    names = [name for name in (run.student, run.teacher_network) if name is not None]
    for name in names:
        if reason := _unreadable(name, shapes, small):
            return reason
    _check_gradient(run.student, shapes, small)
    if _is_traced(run, shapes):
        return ""
    others = len(online_teachers.teacher_names(run)[1:]) + len(online_teachers.snapshot_names(run))
    options = json.dumps(run.options)
    if reason := _failure(run.method, options, run.student, run.teacher_network or run.student, others, small):
        pair = " -> ".join(filter(None, [run.teacher_network, run.student]))
        return f"{run.method} cannot be used for {pair}: {reason}"
    return ""


def _is_traced(run: Run, shapes: Shapes) -> bool:
    """Whether a run's losses can be computed on fake tensors, which some networks and methods do not support."""
    try:
        return not loss_of(run, shapes).rule
    except UntracedError:
        return False


@cache
def _unreadable(name: str, shapes: Shapes, small: Shapes) -> str:
    """Why a network cannot read the images; empty if it can."""
    try:
        traced(name, shapes)
    except UntracedError:
        try:
            _outputs(name, small)
        except SpecError:
            raise  # it cannot be built, whatever the images
        except Exception as error:  # noqa: BLE001 - a user's network raises anything
            return f"{name} cannot read images of {shapes.height}x{shapes.width} pixels: {_line(error)}"
    return ""


@cache
def _check_gradient(student: str, shapes: Shapes, small: Shapes) -> None:
    """Refuse a student whose logits have no gradient.

    Raises:
        SpecError: says so.
    """
    try:
        logits = traced(student, shapes).outputs.logits
    except UntracedError:
        logits = _outputs(student, small)[1].logits
    if isinstance(logits, torch.Tensor) and not logits.requires_grad:
        raise SpecError(
            f"network {student} cannot be trained: its logits have no gradient; leave parameters that require one, and "
            "detach nothing on the way to the logits"
        )


@cache
def _failure(method: str, options: str, student: str, teacher: str, others: int, shapes: Shapes) -> str:
    """Why a method's losses cannot be computed on the outputs of two networks; empty if they can."""
    task = tasks.get(shapes.task)
    learner, student_outputs = _outputs(student, shapes)
    frozen, teacher_outputs = _outputs(teacher, shapes)
    views = methods.views(method)
    seen = dict.fromkeys(views, teacher_outputs)
    teacher_outputs = replace(teacher_outputs, others=(teacher_outputs,) * others, views=seen)
    student_outputs = replace(student_outputs, views=dict.fromkeys(views, student_outputs))
    labels = task.example_setting(shapes.samples, shapes.classes).train_targets
    more: dict[str, Any] = {"steps_per_epoch": 1, "batch_size": shapes.batch}
    more["new_student"] = partial(networks.build, student, shapes.classes)
    setting = Setting(shapes.task, shapes.classes, shapes.samples, learner.info, frozen.info, labels, **more)
    batch = Batch(torch.zeros(shapes.batch, 3, *shapes.size), task.example_targets(shapes), torch.arange(shapes.batch))
    batch = replace(batch, views=dict.fromkeys(views, batch))
    try:
        with torch.random.fork_rng(devices=[]):
            methods.build(method, setting, **json.loads(options)).train()(batch, student_outputs, teacher_outputs)
    except MethodError as error:
        return str(error)
    except OverflowError as error:
        raise MethodError(f"{method}: an option is too large to compute with ({error.args[-1]}): {options}") from error
    except Exception as error:  # noqa: BLE001 - outputs of other shapes than a method expects raise anything
        features = (
            f"the features are {_sizes(teacher_outputs)} of the teacher, {_sizes(student_outputs)} of the student"
        )
        return f"{_line(error)}; {features}"
    return ""


def _outputs(name: str, shapes: Shapes) -> tuple[Network, Outputs]:
    """A network, and its outputs for images of zeros in train mode."""
    with torch.random.fork_rng(devices=[]):
        network = networks.build(name, shapes.classes).train()
        outputs: Outputs = network(torch.zeros(shapes.batch, 3, *shapes.size))
    return network, outputs


def _sizes(outputs: Outputs) -> str:
    """Channels, height and width of features: "16x32x32, 32x16x16"."""
    return ", ".join("x".join(map(str, feature.shape[1:])) for feature in outputs.features) or "none"


def _line(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, MethodError) else f"{type(error).__name__}: {first}"
