"""Short trainings by the harness's own loop, held before every batch so that several can be timed in turn."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from kdbench import methods, networks, tasks
from kdbench.datasets.base import ImageSet
from kdbench.methods.base import Batch
from kdbench.networks.base import Network
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.spec.run import Run
from kdbench.tasks.base import Task
from kdbench.tasks.opened import OpenedData
from kdbench.tasks.shard import WHOLE, Shard
from kdbench.train.loop import train
from kdbench.train.student import Student

from . import synthetic

PHASES = {"module_epochs": 1, "paraphraser_epochs": 1, "initial_epochs": 1, "mask_steps": 2}
"""Options that say how long a method's earlier phase takes, which is no part of a step."""

STEPS = 12
"""Most that a loop is asked for."""

Entry = tuple[str, dict[str, Any]]
"""A method and its options."""


@dataclass(frozen=True)
class Case:
    """A pair of networks under a recipe; the data is made for the recipe's task.

    Attributes:
        name: of the case.
        teacher: network.
        student: network.
        recipe: its name.
        changes: fields of the recipe.
        rounds: how often a step of it is timed.
        cifar: on random images in CIFAR-100's shape and number, in place of the embedded digits.
    """

    name: str
    teacher: str
    student: str
    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)
    rounds: int = 6
    cifar: bool = False

    @property
    def task(self) -> str:
        return networks.task(self.student)

    @property
    def large(self) -> bool:
        """Whether a step takes a second and not a tenth."""
        return self.cifar


CIFAR_PAIR = ("resnet32x4", "resnet8x4", "cifar_240")
FLOAT32 = {"channels_last": True, "milestones": ()}
BFLOAT16 = FLOAT32 | {"precision": "bfloat16"}

MINI = Case("cifar-mini", "resnet20", "resnet8", "cifar_mini", rounds=10)
X4_FLOAT32 = Case("x4-float32", *CIFAR_PAIR, FLOAT32, rounds=3, cifar=True)
X4_BFLOAT16 = Case("x4-bfloat16", *CIFAR_PAIR, BFLOAT16, rounds=3, cifar=True)
COCO = Case("coco-mini", "retinanet_mini_teacher", "retinanet_mini_student", "coco_mini")
CITYSCAPES = Case("cityscapes-mini", "segmenter_mini_teacher", "segmenter_mini_student", "cityscapes_mini")


class Rig:
    """Data and a teacher for the trainings of one case.

    Args:
        case: what is trained.
        root: where data is made and students keep their files.
        device: where they train.
    """

    def __init__(self, case: Case, root: Path, device: torch.device) -> None:
        self.case, self.root, self.device = case, root, device
        # One epoch is longer than the loop is watched for: no student is evaluated or saved in between.
        changes = {"epochs": 1, "epoch_steps": STEPS + 1, "lr": 1e-4, "eval_every": 1} | case.changes
        self.recipe: Recipe = load_recipe(case.recipe, changes)

    @cached_property
    def data(self) -> OpenedData:
        if self.case.cifar:
            return synthetic.images()
        sizes = {"train": 320, "val": 10} if self.case.task == "classification" else {"train": 64, "val": 8}
        return tasks.get(self.case.task).open("digits", self.root, options=sizes)

    @property
    def images(self) -> ImageSet:
        """The data of a case of classification."""
        assert isinstance(self.data, ImageSet)
        return self.data

    @cached_property
    def task(self) -> Task:
        return tasks.get(self.case.task)(self.data, self.recipe, data_seed=0)

    @cached_property
    def teacher(self) -> Network:
        """Untrained, with the statistics of a batch in its normalisation, so that its outputs are of a usual size."""
        torch.manual_seed(0)
        network = networks.build(self.case.teacher, len(self.data.classes)).to(self.device)
        for norm in (m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            norm.momentum = None
        with torch.no_grad():
            self.task.outputs(network.train(), next(self.task.batches(0, self.device)))
        network.eval().requires_grad_(False)
        return network.to(memory_format=torch.channels_last) if self.recipe.channels_last else network

    def loop(self, *entries: Entry) -> Loop:
        """The training of these methods side by side.

        Raises:
            MethodError: one of them has no form for the case.
        """
        students = [self._student(*entry) for entry in entries]
        taught = any(student.uses_frozen_teacher for student in students)
        return Loop(students, self.task, self.teacher if taught else None, self.device)

    def _student(self, method: str, options: dict[str, Any]) -> Student:
        options = methods.resolve(method, _shortened(methods.resolve(method, {})) | options)
        mode = methods.teacher_mode(method, options)
        run = Run(
            task=self.recipe.task,
            scale="mini",
            data=self.task.describe(self.data),
            student=self.case.student,
            online_teacher=self.case.teacher if mode == "online" else None,
            method=method,
            options=options,
            recipe=self.recipe,
            seed=0,
        )
        return Student(run, self.task, self.teacher.info if mode == "frozen" else None, self.root / run.id, self.device)


class Loop:
    """`loop.train` in a thread of its own, which waits before every batch until `step` lets it go on.

    Only one thread ever works: whoever calls `step` waits meanwhile. Use it as a context manager.
    """

    def __init__(self, students: Sequence[Student], task: Task, teacher: Network | None, device: torch.device) -> None:
        self.students, self.device = list(students), device
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._ends = False
        self._error: BaseException | None = None
        held = copy.copy(task)
        held.batches = self._held(task)  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._train, args=(held, teacher), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait()  # for the methods' earlier phases
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ends = True
        self._go.release()
        self._thread.join()

    def step(self) -> None:
        """Everything that the loop does for one batch: data, teacher, students, and what it reads and reports."""
        self._go.release()
        self._wait()

    def _wait(self) -> None:
        self._waits.acquire()
        for student in self.students:
            assert student.active, f"{student.run.method} left the training: {student.status}, {student.reason}"
        if self._error is not None:
            raise self._error
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _train(self, task: Task, teacher: Network | None) -> None:
        try:
            train(self.students, task, teacher, self.device, lambda _: None)
            self._error = AssertionError(f"the training is over; STEPS gives it {STEPS}")
        except _End:  # was asked for, and is no error
            self._error = None
        except BaseException as error:  # noqa: BLE001 - raised again where the thread is waited for
            self._error = error
        self._waits.release()

    def _held(self, task: Task) -> Any:
        def batches(
            epoch: int,
            device: torch.device,
            stream: str = "train",
            skip: int = 0,
            shard: Shard = WHOLE,
            views: Sequence[str] = (),
        ) -> Iterator[Batch]:
            source = task.batches(epoch, device, stream, skip, shard, views)
            while True:
                self._waits.release()
                self._go.acquire()
                if self._ends:
                    raise _End
                yield next(source)

        return batches


class _End(BaseException):
    """Ends a training from within; nothing in the harness catches it."""


def _shortened(options: dict[str, Any]) -> dict[str, Any]:
    """Those of a method's options that make its earlier phases short, at every depth."""
    inner = {name: _shortened(value) for name, value in options.items() if isinstance(value, dict)}
    return {name: PHASES[name] for name in options if name in PHASES} | {n: v for n, v in inner.items() if v}
