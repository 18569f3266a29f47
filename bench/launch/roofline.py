"""The time of a training step from what it computes, moves and launches: a roofline, for where nothing was measured.

On a GPU, a step takes as long as its operations and its traffic to memory, one after the other, or as launching its
operations, where that takes longer: small networks are bound by the launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbench import methods

from .. import tasks
from ..spec.run import Run
from ..tasks.base import Shapes
from ..train import online_teachers as online
from .device_facts import Device
from .memory import Memory
from .tracing import Traced, loss_of, traced

BACKWARD = 3
"""Forward and backward of a network, in forwards."""
MOVED = 2
"""Times that what an operation writes is moved: it is written and read again."""
OPTIMIZER = 40
"""Operations of an optimizer's step over all weights at once, of clipping and of zeroing gradients."""
STATES = 5
"""Times that an optimizer's step moves the weights: weights, gradients and momentum, read and written."""

IMAGE_SECONDS = {"padded_crop": 0.0, "resized_crop": 0.012, "resize": 0.025, "scaled_crop": 0.06}
"""Seconds of a loader process for an image file at full scale, by `image.kind`: decoding JPEGs of ImageNet's and COCO's
size and PNGs of Cityscapes' size, and augmenting them. Arrays are on the device."""


@dataclass(frozen=True)
class Work:
    """What an optimizer step of a cohort does: floating-point operations, bytes moved, operations launched."""

    flops: float
    moved: float
    kernels: float


def work(runs: Sequence[Run], memory: Memory) -> Work:
    """The work of one optimizer step.

    Args:
        runs: of one cohort.
        memory: says the shapes of micro-batches.

    Raises:
        UntracedError: a network cannot be traced.
    """
    recipe, shapes = runs[0].recipe, memory.shapes(runs[0])
    passes = [*_student_passes(runs, shapes), *_teacher_passes(runs, shapes)]
    losses = [loss_of(run, shapes) for run in runs]
    height, width = tasks.get(shapes.task).typical_size(recipe, memory.stored)
    area = height * width / (shapes.height * shapes.width)
    flops = sum(each.images * each.network.flops for each in passes)
    written = sum(each.images * each.network.written for each in passes) + BACKWARD * sum(x.written for x in losses)
    kernels = sum(each.launches * each.network.kernels for each in passes) + BACKWARD * sum(x.kernels for x in losses)
    trained = [each.network.weights for each in passes if each.trains] + [loss.weights for loss in losses]
    states = STATES * sum(trained)
    return Work(
        recipe.accumulate * area * flops,
        recipe.accumulate * area * MOVED * written + states,
        recipe.accumulate * kernels + OPTIMIZER * len(runs),
    )


@dataclass(frozen=True)
class _Passes:
    """The passes of one network in a step, in forwards: a method that reads views has one of each view as well.

    Attributes:
        network: traced.
        images: forwards of a batch.
        launches: forwards that are launched, fewer where views are in one forward with the batch.
        trains: whether the step changes its weights.
    """

    network: Traced
    images: int
    launches: int
    trains: bool = False


def _student_passes(runs: Sequence[Run], shapes: Shapes) -> list[_Passes]:
    """Of students, and of the teachers that train with them, which see no views."""
    passes = []
    for run in runs:
        images = 1 + len(methods.views(run.method))
        launches = 1 if methods.joint_views(run.method) else images
        passes.append(_Passes(traced(run.student, shapes), BACKWARD * images, BACKWARD * launches, trains=True))
        for name in online.teacher_names(run):
            passes.append(_Passes(traced(name, shapes), BACKWARD, BACKWARD, trains=True))
    return passes


def _teacher_passes(runs: Sequence[Run], shapes: Shapes) -> list[_Passes]:
    """Of frozen teachers: one serves all students of the cohort and sees the views that any of them reads."""
    taught: dict[str, set[str]] = {}
    for run in runs:
        if run.teacher:
            taught.setdefault(run.teacher.student, set()).update(methods.views(run.method))
    passes = [_Passes(traced(name, shapes), 1 + len(views), 1 + len(views)) for name, views in taught.items()]
    return passes + [_Passes(traced(name, shapes), 1, 1) for run in runs for name in online.snapshot_names(run)]


def step_seconds(runs: Sequence[Run], memory: Memory, device: Device, threads: int) -> float:
    """Seconds of one optimizer step, data apart.

    Args:
        runs: of one cohort.
        memory: says the shapes of micro-batches.
        device: that it runs on.
        threads: of a processor.

    Raises:
        UntracedError: a network cannot be traced.
    """
    done = work(runs, memory)
    rates = {"ieee": device.float32, "tf32": device.tf32, "bfloat16": device.bfloat16}
    computing = done.flops / rates[runs[0].recipe.precision] + done.moved / device.bandwidth
    launching = device.launch * done.kernels
    return computing / threads + launching if device.name == "cpu" else max(computing, launching)


def with_loading(step: float, run: Run, workers: int) -> float:
    """A step of so many seconds, with the time to load its images from files where that is longer."""
    images = IMAGE_SECONDS[run.recipe.image.kind] * run.recipe.batch_size if run.scale == "full" else 0.0
    return max(step, images / workers) if workers else step + images
