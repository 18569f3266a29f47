"""Loss terms of every method's first optimizer steps, from seeded and untrained networks: what `make guard` compares.

Weights, data and random draws are the same everywhere, so processors differ by rounding alone. The networks are
untrained, and three small steps of SGD hardly amplify rounding, so losses agree to some ten thousandths, where another
loss mostly differs by per cents. Accuracy and speed are compared by `compare`.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.base import VIEWS, Batch, Outputs

from .. import networks, tasks
from ..errors import StoreError
from ..networks.base import Network
from ..records.store import write_atomically
from ..spec.recipe import Recipe, load_recipe
from ..spec.run import Run
from ..tasks.base import Task
from ..tasks.opened import OpenedData
from ..text import counted
from ..train.failures import status_of
from ..train.preparation import Prepared, prepare
from ..train.step import student_step, teacher_forward
from ..train.student import Student
from ..train.timing import StepTimer

STEPS = 3

TOLERANCE = 1e-3
"""Relative change of a term that counts: our choice; other CPU instructions and two threads gave at most 2.1e-4."""

FLOOR = 1e-8
"""Share of the step's loss by which any term may change, so that rounding of a term near 0 is allowed."""

DIGITS = 7  # significant ones in the file

Losses = dict[str, list[dict[str, float]]]
"""By `case/method`: each step's loss terms by name."""

OPTIONS: dict[str, Any] = {
    "module_epochs": 1,
    "paraphraser_epochs": 1,
    "initial_epochs": 1,
    "mask_steps": 2,
    "prompt_steps": 2,
    "custom_mask_warmup": 1,  # so that the first step is without the student's mask and the next with it
    "joint": True,  # AB and FSP: the loss of the initial phase is then seen as a term of its own
    "negatives": 16,
    "pixel_memory_size": 40,
    "region_memory_size": 4,
    "pixel_contrast_size": 64,
    "region_contrast_size": 8,
}
"""Options that shorten phases and queues to a few small steps and make otherwise unseen losses terms, of whichever
method has them."""

COMMON: dict[str, Any] = {
    "epochs": 1,
    "epoch_steps": STEPS,
    "optimizer": "sgd",  # AdamW's first steps are signs of gradients, which rounding decides where they are near 0
    "lr": 0.001,
    "schedule": "step",
    "warmup_steps": 0,
    "eval_every": 1,
    "precision": "ieee",
}


@dataclass(frozen=True)
class Case:
    """Two networks and a recipe on which methods compute their losses.

    Attributes:
        name: of the case, the first half of a key of `Losses`.
        teacher, student: networks.
        recipe: its name.
        changes: fields of the recipe, beside those of `COMMON`.
        last: suffixes of the names of last layers, with the factor on their weights. Untrained networks are unsure of
            every class, and T^2 KL of such logits hardly depends on T.
        images: number of training images.
        steps: number of steps.
        terms: only methods with one of these in their names.
    """

    name: str
    teacher: str
    student: str
    recipe: str
    changes: dict[str, Any]
    last: dict[str, float]
    images: int = 32
    steps: int = STEPS
    terms: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        return networks.task(self.student)

    def entries(self) -> list[str]:
        """`case/method` of every method that supports the task."""
        names = [(name, name.split("+")) for name in methods.names()]
        return [
            f"{self.name}/{name}"
            for name, parts in names
            if all(self.task in methods.method_class(part).tasks for part in parts)
            and (not self.terms or any(part in self.terms for part in parts))
        ]


SMALL = {"batch_size": 4, "image": {"kind": "resize", "shorter": 128, "longer": 128, "flip": 0.0}}
WIDE = {"kind": "scaled_crop", "height": 64, "width": 64, "scale": (1.0, 1.0), "scale_step": None, "flip": 0.0}
CASES = (
    Case("classification", "resnet20", "resnet8", "cifar_mini", {"batch_size": 16}, {"fc": 8.0}),
    Case(
        "detection",
        "retinanet_mini_teacher",
        "retinanet_mini_student",
        "coco_mini",
        SMALL,
        {"cls_logits": 30.0, "bbox_reg": 10.0},
        images=16,
    ),
    Case(
        "two-stage detection",
        "faster_rcnn_mini_teacher",
        "faster_rcnn_mini_student",
        "coco_mini",
        SMALL,
        {"rpn.head.cls_logits": 30.0, "cls_score": 30.0, "box_predictor.bbox_pred": 10.0},
        images=16,
        steps=1,  # rounding of their scores decides which proposals the next step has
        terms=("none", "dist", "box_l1"),  # methods that read a RoI head; the others have the one-stage detector
    ),
    Case(
        "segmentation",
        "segmenter_mini_teacher",
        "segmenter_mini_student",
        "cityscapes_mini",
        {"batch_size": 4, "image": WIDE},
        {"segmentation_head.0": 8.0, "auxiliary_head.4": 8.0},
        images=16,
    ),
)


@dataclass
class FirstLosses:
    """The computed losses.

    Attributes:
        losses: of the methods that finished all steps.
        failures: a sentence for each of the others.
    """

    losses: Losses = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def keys() -> list[str]:
    """`case/method` of everything that is compared."""
    return [key for case in CASES for key in case.entries()]


def compute(wanted: Collection[str] | None = None, threads: int = 1) -> FirstLosses:
    """The losses of the first steps of all methods, or of the `wanted` keys, on the CPU; under a minute for all.

    One thread is as fast as several on networks this small, and faster where other processes run.
    """
    computed = FirstLosses()
    with tempfile.TemporaryDirectory() as folder, _reproducible(threads):
        for case in CASES:
            chosen = [key for key in case.entries() if wanted is None or key in wanted]
            setup = _CaseSetup(case, Path(folder) / case.name.replace(" ", "-"))
            prepared: Prepared = {}
            for key in chosen:
                try:
                    computed.losses[key] = setup.losses(key.partition("/")[2], prepared)
                except Exception as error:  # noqa: BLE001 - the other methods are still compared
                    computed.failures.append(f"{key} cannot be computed: {status_of(error)[1]}")
    return computed


def differences(before: Losses, now: Losses) -> list[str]:
    """A sentence for every loss term that changed and every method that is gone; new methods have nothing to equal."""
    sentences = [f"{key} is missing: it was there before" for key in before if key not in now]
    for key in (key for key in before if key in now):
        sentences += _changes(key, before[key], now[key])
    return sentences


def write(losses: Losses, path: Path) -> None:
    """Write losses as JSON, sorted, one step a line, rounded so that a diff shows what changed.

    Raises:
        StoreError: the file cannot be written.
    """
    methods_ = []
    for key in sorted(losses):
        steps = ",\n".join(f"  {json.dumps(_rounded(step), sort_keys=True)}" for step in losses[key])
        methods_.append(f" {json.dumps(key)}: [\n{steps}\n ]")
    write_atomically(path, ("{\n" + ",\n".join(methods_) + "\n}\n").encode())


def read(path: Path) -> Losses:
    """Losses that `write` has written.

    Raises:
        StoreError: there is no such file, or its content does not fit.
    """
    fix = "`kdbench guard --update` writes it"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; {fix}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as JSON ({error}); {fix}") from error
    if not _fits(content):
        raise StoreError(f"{path}: holds no loss terms as one list of steps a method; {fix}")
    return {key: [{name: float(v) for name, v in step.items()} for step in steps] for key, steps in content.items()}


def _rounded(step: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.{DIGITS}g}") for name, value in step.items()}


def _fits(content: object) -> bool:
    if not isinstance(content, dict) or not all(isinstance(steps, list) for steps in content.values()):
        return False
    every = [step for steps in content.values() for step in steps]
    return all(isinstance(step, dict) and all(isinstance(v, int | float) for v in step.values()) for step in every)


def _changes(key: str, before: list[dict[str, float]], now: list[dict[str, float]]) -> Iterator[str]:
    """One sentence a term, about the first step at which it differs."""
    if len(before) != len(now):
        yield f"{key} has {counted(len(now), 'step')}, not {len(before)}"
    reported: set[str] = set()
    for step, (old, new) in enumerate(zip(before, now, strict=False), 1):
        allowed = FLOOR * sum(map(abs, old.values()))
        for name in sorted(old.keys() | new.keys()):
            if name in reported:
                continue
            if name not in new:
                text = f"loss term {name} is gone at step {step}; it was {old[name]:.6g}"
            elif name not in old:
                text = f"loss term {name} is new at step {step}, {new[name]:.6g}"
            elif not abs(new[name] - old[name]) <= TOLERANCE * abs(old[name]) + allowed:
                text = f"loss term {name} changed from {old[name]:.6g} to {new[name]:.6g} at step {step}"
            else:
                continue
            reported.add(name)
            yield f"{key}: {text}"


@contextmanager
def _reproducible(threads: int) -> Iterator[None]:
    """Compute with that many threads, and with the same draws of dropout on every processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with mock.patch.object(F, "dropout", _dropout):
            yield
    finally:
        torch.set_num_threads(before)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    """`F.dropout` by uniform draws. On Intel's processors torch draws from MKL's generator, elsewhere from its own."""
    return input * (torch.rand(input.shape, device=input.device) >= p) / (1 - p) if training else input


class _CaseSetup:
    """Data and a teacher for the methods of one case, made when first used."""

    def __init__(self, case: Case, root: Path) -> None:
        self.case, self.root, self.device = case, root, torch.device("cpu")
        self.recipe: Recipe = load_recipe(case.recipe, COMMON | case.changes)

    @cached_property
    def data(self) -> OpenedData:
        options = {"train": self.case.images, "val": self.recipe.batch_size}
        return tasks.get(self.case.task).open("digits", self.root, options=options)

    @cached_property
    def task(self) -> Task:
        return tasks.get(self.case.task)(self.data, self.recipe, data_seed=0)

    @cached_property
    def batches(self) -> list[Batch]:
        views = VIEWS if self.case.task == "classification" else ()
        return list(itertools.islice(self.task.batches(0, self.device, views=views), self.case.steps))

    @cached_property
    def teacher(self) -> Network:
        """Untrained, with the statistics of one batch in its normalization, so that its outputs have a usual size."""
        torch.manual_seed(0)
        network = self._scale_last_layers(networks.build(self.case.teacher, len(self.data.classes)))
        for norm in (m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            norm.momentum = None
        with torch.no_grad():
            self.task.outputs(network.train(), self.batches[0])
        network.eval().requires_grad_(False)
        return network.to(memory_format=torch.channels_last) if self.recipe.channels_last else network

    @cached_property
    def teacher_outputs(self) -> list[Outputs]:
        """The teacher's outputs for each batch."""
        with torch.no_grad():
            return [teacher_forward(self.teacher, batch, self.recipe) for batch in self.batches]

    def losses(self, method: str, prepared: Prepared) -> list[dict[str, float]]:
        """The loss terms of a method's first steps, by the training loop's step."""
        student = self._student(method)
        frozen = self.teacher if student.uses_frozen_teacher else None
        online = student.online_teachers.networks if student.online_teachers is not None else ()
        for network in (student.network, *online):
            self._scale_last_layers(network)
        if frozen is not None:
            prepare(student, frozen, prepared)
        terms = []
        for number, batch in enumerate(self.batches):
            outputs = self.teacher_outputs[number] if frozen is not None else None
            student_step(student, batch, frozen, outputs, StepTimer(self.device, exact=False))
            terms.append(student.read_losses())
        return terms

    def _student(self, method: str) -> Student:
        options = methods.resolve(method, _changed(methods.resolve(method, {})))
        mode = methods.teacher_mode(method, options)
        run = Run(
            task=self.recipe.task,
            scale="mini",
            # Initial weights are seeded by this, and must not change with the data set.
            data=self.task.describe(self.data).model_copy(update={"fingerprint": "first losses"}),
            student=self.case.student,
            online_teacher=self.case.teacher if mode == "online" else None,
            method=method,
            options=options,
            recipe=self.recipe,
            seed=0,
        )
        info = self.teacher.info if mode == "frozen" else None
        return Student(run, self.task, info, self.root / "runs" / method, self.device)

    def _scale_last_layers(self, network: Network) -> Network:
        """The network with larger weights in its last layers."""
        with torch.no_grad():
            for name, module in network.named_modules():
                for end, factor in self.case.last.items():
                    if name.endswith(end):
                        module.weight.mul_(factor)
        return network


def _changed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a method that `OPTIONS` sets, at every depth."""
    inner = {name: _changed(value) for name, value in options.items() if isinstance(value, dict)}
    return {name: OPTIONS[name] for name in options if name in OPTIONS} | {n: v for n, v in inner.items() if v}
