"""The memory of a cohort, estimated before it starts, and how it is split where that is too much.

Every student keeps its weights, gradients, the state of its optimizer, and what its method trains or remembers. What a
forward saves for the backward is one student's and one micro-batch's at a time, so the largest counts once. A method's
preparation has the teacher's forward of a whole batch.

Eleven jobs on a CPU (1 to 9 students of all three tasks, peaks of 0.8 to 3.6 GiB) were estimated at 1.05 to 1.44 times
their measured peak. On CUDA nothing was measured; a cohort that runs out of memory there is tried again run by run.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from kdbench import methods

from .. import networks, tasks
from ..engines.probe import probe
from ..grid.cohorts import divided
from ..spec.recipe import Recipe
from ..spec.run import Run
from ..tasks.base import Shapes
from ..tasks.shard import Shard
from ..train import online_teachers as online
from .tracing import FLOAT, Loss, Traced, UntracedError, loss_of, traced

GIB = 2**30
LIBRARIES = {"cpu": 1.0 * GIB, "cuda": 1.0 * GIB}  # Python and torch; on CUDA the context and cuDNN's workspaces
MARGIN = 1.2  # on all the rest
LITTLE = 1.1  # times what the largest run takes, where that is too much alone: splitting further would save nothing
PIXEL = 48 * 2**10  # for each pixel of a batch: more than any network here keeps (30 KiB), and room for a method
STATES = {"sgd": 1, "adamw": 2, "rmsprop_tf": 2}  # values that an optimizer keeps for each weight


@dataclass(frozen=True)
class Split:
    """A cohort as it is run, in parts, a note on its memory, and the bytes of each part where they are known."""

    parts: tuple[tuple[Run, ...], ...]
    words: str
    needed: tuple[int, ...] = ()


def shapes_of(run: Run, stored: tuple[int, int], world_size: int = 1) -> Shapes:
    """A run's largest micro-batches on each of several GPUs.

    Args:
        run: any.
        stored: height and width in pixels of images that are stored in one size, if any.
        world_size: number of GPUs that share every batch.
    """
    height, width = tasks.get(run.task).input_size(run.recipe, stored)
    data, recipe = run.data, run.recipe
    images = Shard(world_size=world_size).size(recipe.micro_batch_size)
    return Shapes(run.task, data.classes, data.train_images, images, height, width, recipe.precision)


class Memory:
    """What jobs on one kind of device need, and whether they have it.

    Args:
        kind: "cpu" or "cuda".
        room: bytes for each job.
        stored: height and width of images that are held as arrays; ignored for image files.
        workers: loader processes a job.
        world_size: GPUs of a job, each of which has as much.
    """

    def __init__(
        self, kind: str, room: float, stored: tuple[int, int] = (0, 0), workers: int = 0, world_size: int = 1
    ) -> None:
        self.kind, self.room, self.stored, self.workers, self.world_size = kind, room, stored, workers, world_size

    def split(self, runs: Sequence[Run], exact: bool = False) -> Split:
        """The fewest parts of a cohort that fit, nearly equal in number.

        A run that is too large alone is still attempted, together with those that add little to it: the estimate is on
        the safe side, and running out of memory is a status. A cohort that cannot be traced stays whole.

        Args:
            runs: of one cohort.
            exact: trace the networks even where a bound from shapes alone shows that the cohort fits.
        """
        if not exact and self.bound(runs) <= self.room:
            return Split((tuple(runs),), "")
        try:
            whole = self.needed(runs)
            largest = max(self.needed([run]) for run in runs) if whole > self.room else 0.0
            parts = self._fewest(runs, max(self.room, LITTLE * largest))
        except UntracedError as error:
            return Split((tuple(runs),), f"memory unknown ({error})")
        words = f"{_gib(whole)} GiB"
        if len(parts) > 1:
            words = f"split into {len(parts)}, because together they take {words} and a job has {_gib(self.room)}"
        if largest > self.room:
            words += f"; one run takes {_gib(largest)} GiB and a job has {_gib(self.room)}: it is still attempted"
            words += " (micro-batches take less: accumulate in its recipe)"
        return Split(parts, words, tuple(round(self.needed(part)) for part in parts))

    def _fewest(self, runs: Sequence[Run], room: float) -> tuple[tuple[Run, ...], ...]:
        every = (divided(runs, count) for count in range(1, len(runs)))
        fitting = (parts for parts in every if all(self.needed(part) <= room for part in parts))
        return tuple(next(fitting, [(run,) for run in runs]))

    def bound(self, runs: Sequence[Run]) -> float:
        """An upper bound of `needed`, from the shapes of batches and weights alone."""
        shapes = self.shapes(runs[0])
        largest = max(self._whole(runs[0]), _evaluated(runs[0], shapes))  # a method may prepare by whole batches
        pixels = shapes.height * shapes.width * shapes.batch * largest
        names = [run.teacher.student for run in runs if run.teacher]
        for run in runs:
            names += [run.student, *online.teacher_names(run), *online.snapshot_names(run)]
        try:
            states = sum(8 * _weights(name, shapes.classes) for name in names) + sum(map(bank_bytes, runs))
        except Exception:  # noqa: BLE001 - a network that cannot be built without memory; `split` reports it
            return math.inf
        parallel = max(1, *(len(online.teacher_names(run)) for run in runs))
        parallel *= 1 + max(len(methods.views(run.method)) for run in runs)
        return MARGIN * (PIXEL * pixels * parallel + states + self._data(runs[0], shapes)) + LIBRARIES[self.kind]

    def needed(self, runs: Sequence[Run]) -> float:
        """Peak bytes of a cohort's training and evaluation."""
        shapes = self.shapes(runs[0])
        students = [traced(run.student, shapes) for run in runs]
        losses = [loss_of(run, shapes) for run in runs]
        online_teachers = [[traced(name, shapes) for name in online.teacher_names(run)] for run in runs]
        snapshots = [traced(name, shapes) for run in runs for name in online.snapshot_names(run)]
        frozen = [traced(name, shapes) for name in {run.teacher.student for run in runs if run.teacher}]
        states = sum(_state(run.recipe, net, loss) for run, net, loss in zip(runs, students, losses, strict=True))
        states += sum(_state(runs[0].recipe, net, Loss()) for nets in online_teachers for net in nets)
        seen = 1 + max(loss.views for loss in losses)
        states += sum(net.weights + net.buffers + seen * net.output_bytes for net in [*frozen, *snapshots])
        steps = [
            loss.saved + sum((1 + loss.views) * net.saved + net.forward for net in [student, *teachers])
            for student, loss, teachers in zip(students, losses, online_teachers, strict=True)
        ]
        forward = max(net.forward for net in [*students, *frozen, *itertools.chain(*online_teachers)])
        prepared = self._whole(runs[0]) if any(loss.prepares for loss in losses) else 1
        peak = max(*steps, forward * _evaluated(runs[0], shapes), *(prepared * teacher.forward for teacher in frozen))
        return MARGIN * (states + peak + self._data(runs[0], shapes)) + LIBRARIES[self.kind]

    def shapes(self, run: Run) -> Shapes:
        """A run's largest micro-batches."""
        return shapes_of(run, self.stored, self.world_size)

    def _whole(self, run: Run) -> int:
        """The size of a batch, in micro-batches of one GPU."""
        return run.recipe.accumulate * self.world_size

    def _data(self, run: Run, shapes: Shapes) -> int:
        """The batch, those that are prefetched, and a data set of arrays."""
        images = Shard(world_size=self.world_size).size(run.recipe.batch_size)
        batch = 3 * FLOAT * images * shapes.height * shapes.width
        size = (3 + 2 * self.workers * (self.kind == "cpu")) * batch
        return size + tasks.get(run.task).stored_bytes(run.recipe, run.data, self.stored, self.kind)


def bank_bytes(run: Run) -> int:
    """Bytes of the banks and queues that a run's method will keep."""
    setting = tasks.get(run.task).example_setting(run.data.train_images, run.data.classes)
    if not methods.bank_bytes(run.method, setting, run.options):
        return 0
    names = (run.student, run.teacher_network or run.student)
    with torch.device("meta"):
        infos = [networks.build(name, run.data.classes).info for name in names]
    return methods.bank_bytes(run.method, replace(setting, student=infos[0], teacher=infos[1]), run.options)


def available(device: str, root: Path = Path("/")) -> int:
    """Free bytes of a device; of a CPU, what is free and within the limits of control groups.

    Args:
        device: "cpu", "cuda" or "cuda:0".
        root: where `proc` and `sys` are.
    """
    if device != "cpu":
        return probe(device).free
    file = root / "proc" / "meminfo"
    if not file.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # all memory: not on Linux
    free = next(int(line.split()[1]) * 1024 for line in file.read_text().splitlines() if line.startswith("MemAvail"))
    return min([free, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes below the limit of each control group that this process is in; file caches in them can be dropped."""
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, limit, used, cached = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif controllers == "memory":
            top, cached = root / "sys/fs/cgroup/memory", "total_inactive_file"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        leaf = top / path.strip("/")
        for group in (leaf, *leaf.parents):
            values = [*_lines(group / limit), *_lines(group / used)]
            if group.is_relative_to(top) and len(values) == 2 and values[0] != "max":
                stat = dict(entry.split() for entry in _lines(group / "memory.stat"))
                yield int(values[0]) - int(values[1]) + int(stat.get(cached, 0))


def _state(recipe: Recipe, network: Traced, loss: Loss) -> int:
    """What is kept between steps: weights, gradients, the optimizer's values, buffers, and the running mean."""
    copies = 2 + STATES[recipe.optimizer]
    running = network.weights + network.buffers if recipe.ema else 0
    return copies * (network.weights + loss.weights) + network.buffers + loss.buffers + running


@cache
def _weights(name: str, classes: int) -> int:
    with torch.device("meta"):
        return sum(FLOAT * parameter.numel() for parameter in networks.build(name, classes).parameters())


def _evaluated(run: Run, shapes: Shapes) -> float:
    """The size of an evaluation batch, in training batches."""
    return tasks.get(run.task).evaluated_batches(shapes, run.data.val_images)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
