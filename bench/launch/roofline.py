"""The time of a training step from what it computes, moves and launches: a roofline, for where nothing was measured.

On a GPU, a step takes as long as its operations and its traffic to memory, one after the other, or as launching its
operations, where that takes longer: small networks are bound by the launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import tasks
from ..spec.run import Run
from ..train import online_teachers as online
from .device_facts import Device
from .memory import Memory
from .tracing import Loss, Traced, loss_of, traced

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
    trained = [traced(name, shapes) for run in runs for name in (run.student, *online.teacher_names(run))]
    names = {run.teacher.student for run in runs if run.teacher}
    frozen = [traced(name, shapes) for name in [*names, *(n for run in runs for n in online.snapshot_names(run))]]
    losses = [loss_of(run, shapes) for run in runs]
    height, width = tasks.get(shapes.task).typical_size(recipe, memory.stored)
    area = height * width / (shapes.height * shapes.width)
    many: list[Traced | Loss] = [*trained, *losses]
    flops = sum(BACKWARD * net.flops for net in trained) + sum(net.flops for net in frozen)
    written = sum(BACKWARD * each.written for each in many) + sum(net.written for net in frozen)
    kernels = sum(BACKWARD * each.kernels for each in many) + sum(net.kernels for net in frozen)
    states = STATES * sum(each.weights for each in many)
    return Work(
        recipe.accumulate * area * flops,
        recipe.accumulate * area * MOVED * written + states,
        recipe.accumulate * kernels + OPTIMIZER * len(runs),
    )


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
