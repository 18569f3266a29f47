"""Times training steps of jobs, in a process of its own that writes no rows.

`python -m kdbench.train.calibration` reads a list of `Timing` (JSON) from standard input, and prints for each a line of
JSON: its seconds and steps, or why it could not be timed.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel, TypeAdapter
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Batch

from .. import networks, tasks
from ..networks.base import Network
from ..spec import network_name
from ..spec.run import Run
from ..tasks import precision
from ..tasks.base import Shapes, Task
from ..tasks.shard import WHOLE, Shard
from .failures import status_of
from .job import Job, open_task
from .step import train_step
from .student import Student
from .timing import StepTimer

WARM_UP = 5
LEAST, MOST = 20, 50
"""Steps that are timed."""
ENOUGH = 10.0
"""Seconds after which no more than the least are timed."""
TOO_LONG = 120.0
"""Seconds after which even fewer will do."""


class Timing(BaseModel):
    """A job whose steps are to be timed.

    Attributes:
        job: its runs; nothing of it is written.
        threads: on a CPU.
        synthetic: make batches up in the recipe's shapes, and load none.
        stored: height and width of images that are held as arrays, pixels.
    """

    job: Job
    threads: int
    synthetic: bool
    stored: tuple[int, int] = (0, 0)


def time_steps(timing: Timing) -> tuple[float, int]:
    """The median seconds of a job's training step, and how many were timed.

    Weights are random, and the phases of a method before the training are left out.

    Raises:
        RuntimeError: a student failed; says how.
        SpecError: the device cannot train in the recipe's precision.
    """
    job, device = timing.job, torch.device(timing.job.device)
    for file in job.method_files:
        methods.register(file)
    for file in job.network_files:
        network_name.register(file)
    runs = [_with_random_weights(run) for run in job.runs]
    precision.use(runs[0].recipe, device)
    task = synthetic_task(runs[0], timing.stored) if timing.synthetic else open_task(job, runs[0])
    teacher = _teacher(runs, task, device)
    students = []
    for run in runs:
        info = teacher.info if teacher is not None and run.teacher is not None else None
        students.append(Student(run, task, info, Path(), device))
        students[-1].prepared = True
    windows: list[float] = []
    size = 1 if device.type == "cpu" else 10  # steps between which the device is waited for
    views = sorted({view for student in students for view in student.views})
    batches = task.endless(device, "train", Shard(world_size=timing.job.world_size), views)
    begin = _run(students, batches, teacher, WARM_UP if device.type == "cuda" else 2)
    first = begin
    while not _enough(len(windows) * size, begin - first):
        end = _run(students, batches, teacher, size)
        windows.append((end - begin) / size)
        begin = end
    return statistics.median(windows), len(windows) * size


def _enough(steps: int, elapsed: float) -> bool:
    if elapsed >= TOO_LONG:
        return steps >= 3
    return steps >= MOST or (steps >= LEAST and elapsed >= ENOUGH)


def _run(students: list[Student], batches: Iterator[Batch], teacher: Network | None, steps: int) -> float:
    """So many steps; returns when they were over.

    Raises:
        RuntimeError: a student failed; says how.
    """
    device = students[0].device
    for batch in islice(batches, steps):
        train_step(students, batch, teacher, StepTimer(device, exact=False))
        failed = next((student for student in students if not student.active), None)
        if failed is not None:
            raise RuntimeError(f"{failed.run.display_name} {failed.status}: {failed.reason}")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _with_random_weights(run: Run) -> Run:
    return run.model_copy(update={"recipe": run.recipe.model_copy(update={"init": "random"})})


def _teacher(runs: list[Run], task: Task, device: torch.device) -> Network | None:
    spec = next((run.teacher for run in runs if run.teacher), None)
    if spec is None:
        return None
    network = networks.build(spec.student, len(task.classes)).to(device).eval().requires_grad_(False)
    if runs[0].recipe.channels_last:
        network.to(memory_format=torch.channels_last)
    return network


def synthetic_task(run: Run, stored: tuple[int, int]) -> Task:
    """The task of a run on made-up batches of its recipe's shapes; it has no data to evaluate on.

    Args:
        run: whose recipe and number of images and classes are used.
        stored: height and width of images that are held as arrays, pixels.
    """
    kind = tasks.get(run.task)
    return cast(Task, type(f"Synthetic{kind.__name__}", (_Synthetic, kind), {})(run, stored))


class _Synthetic:
    """What `Task` has of its data, made up."""

    def __init__(self, run: Run, stored: tuple[int, int]) -> None:
        recipe, data = run.recipe, run.data
        self.recipe, self.data_seed, self.workers = recipe, run.data_seed, 0
        self.classes = tuple(f"class {i}" for i in range(data.classes))
        self.num_samples, self.batch_size = data.train_images, recipe.batch_size
        self.steps_per_epoch = recipe.epoch_steps or max(1, data.train_images // recipe.batch_size)
        self.image_size = tasks.get(run.task).typical_size(recipe, stored)
        labelled = run.task == "classification"
        self.train_targets = torch.arange(data.train_images) % data.classes if labelled else None
        self.shapes = Shapes(
            run.task, data.classes, data.train_images, recipe.batch_size, *self.image_size, recipe.precision
        )

    def check_views(self, views: Sequence[str], method: str) -> None:
        """See `Task`; any view can be made up."""

    def batches(
        self,
        epoch: int,
        device: torch.device,
        stream: str = "train",
        skip: int = 0,
        shard: Shard = WHOLE,
        views: Sequence[str] = (),
    ) -> Iterator[Batch]:
        """The same batch for every step, which is each of its views: its values do not change the time."""
        images = len(shard.of(range(self.batch_size)))
        index = torch.arange(images) % self.num_samples
        inputs = torch.rand(images, 3, *self.image_size)
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        inputs = inputs.to(device).contiguous(memory_format=layout)
        batch = Batch(inputs, _on(device, self._targets(index)), index.to(device))
        for _ in range(self.steps_per_epoch - skip):
            yield replace(batch, views={name: replace(batch) for name in views})

    def _targets(self, index: Tensor) -> Any:
        targets = tasks.get(self.shapes.task).example_targets(self.shapes)
        if self.train_targets is not None:
            return self.train_targets[index]
        targets = targets[: len(index)]
        return torch.randint_like(targets, self.shapes.classes) if isinstance(targets, Tensor) else targets


def _on(device: torch.device, targets: Any) -> Any:
    if isinstance(targets, Tensor):
        return targets.to(device)
    return [{name: value.to(device) for name, value in target.items()} for target in targets]


def main() -> None:
    for timing in TypeAdapter(list[Timing]).validate_json(sys.stdin.buffer.read()):
        if timing.job.device == "cpu":
            torch.set_num_threads(timing.threads)
        try:
            seconds, steps = time_steps(timing)
            result: dict[str, Any] = {"seconds": seconds, "steps": steps}
        except Exception as error:  # noqa: BLE001 - it is reported, and the other jobs are timed
            result = {"error": status_of(error)[1]}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
