"""Loss terms of every method's first optimiser steps, from seeded and untrained networks: what `make guard` compares.

Weights, data and draws are the same everywhere, so rounding alone sets one processor apart from another. Nothing is
trained before, and three small steps of SGD hardly enlarge what rounding does, so values agree to some ten thousandths
where a loss that is not the same mostly differs by per cents. Accuracy and speed are no part of it (`comparison`).
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import datasets, methods
from kdbench.methods.base import Batch, Outputs

from .. import networks, tasks
from ..errors import StoreError
from ..networks.base import Network
from ..records.store import write_atomically
from ..spec.recipe import Recipe, load_recipe
from ..spec.run import Run
from ..tasks.base import Task
from ..train.loop import status_of
from ..train.student import Clock, Member, Prepared

STEPS = 3

TOLERANCE = 1e-3
"""Relative change of a term that counts: our choice; other instructions and two threads moved none by over 2.1e-4."""

FLOOR = 1e-8
"""Of the step's whole loss: what a term may always move by, so that one next to 0 does not hang on rounding."""

DIGITS = 7  # significant ones in the file

Losses = dict[str, list[dict[str, float]]]
"""By `task/method`: each step's loss terms by name."""

OPTIONS: dict[str, Any] = {
    "module_epochs": 1,
    "paraphraser_epochs": 1,
    "initial_epochs": 1,
    "mask_steps": 2,
    "custom_mask_warmup": 1,  # so that the first step is without the student's mask and the next with it
    "joint": True,  # AB and FSP: the loss of the initial phase is then seen as a term of its own
    "negatives": 16,
    "pixel_memory_size": 40,
    "region_memory_size": 4,
    "pixel_contrast_size": 64,
    "region_contrast_size": 8,
}
"""Options, of whichever method has them, that bring its phases and queues down to a few small steps,
and show what it else computes unseen."""

COMMON: dict[str, Any] = {
    "epochs": 1,
    "epoch_steps": STEPS,
    "optimiser": "sgd",  # AdamW's first steps are signs of gradients, which rounding decides where they are near 0
    "lr": 0.001,
    "schedule": "step",
    "warmup_steps": 0,
    "eval_every": 1,
    "precision": "float32",
}


@dataclass(frozen=True)
class Case:
    """Two networks and a recipe that methods are tried on.

    Attributes:
        name: of the case, the first half of a key of `Losses`.
        teacher, student: networks.
        recipe: its name.
        changes: fields of the recipe, beside those of `COMMON`.
        last: how names of last layers end, with the factor on their weights. Untrained networks are sure of nothing,
            and T^2 KL of such logits hardly depends on T.
        images: in the training set.
        steps: how many.
        terms: only methods that have one of these in their names.
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
        """`case/method` of every method that has a form for the task."""
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
        steps=1,  # which proposals the next step has is decided by the last bit of their scores
        terms=("none", "dist", "box_l1"),  # those that read a RoI head; the others see what a one-stage detector shows
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
class Found:
    """What was computed.

    Attributes:
        losses: of the methods that went through all steps.
        failures: a sentence for each of the others.
    """

    losses: Losses = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def keys() -> list[str]:
    """`task/method` of everything that is compared."""
    return [key for case in CASES for key in case.entries()]


def compute(wanted: Collection[str] | None = None, threads: int = 1) -> Found:
    """The losses of the first steps of all methods, or of the `wanted` keys, on the CPU; under a minute for all.

    One thread is as fast as several on networks this small, and faster where something else runs beside it.
    """
    found = Found()
    with tempfile.TemporaryDirectory() as folder, _alike(threads):
        for case in CASES:
            chosen = [key for key in case.entries() if wanted is None or key in wanted]
            bench = _Bench(case, Path(folder) / case.name.replace(" ", "-"))
            prepared: Prepared = {}
            for key in chosen:
                try:
                    found.losses[key] = bench.losses(key.partition("/")[2], prepared)
                except Exception as error:  # noqa: BLE001 - of one method; the others are still compared
                    found.failures.append(f"{key} cannot be computed: {status_of(error)[1]}")
    return found


def differences(before: Losses, now: Losses) -> list[str]:
    """A sentence for every method and loss term that is not what it was."""
    said = [f"{key} is missing: it was there before" for key in before if key not in now]
    said += [f"{key} is new: nothing is kept to compare it with" for key in now if key not in before]
    for key in (key for key in before if key in now):
        said += _moves(key, before[key], now[key])
    return said


def write(losses: Losses, path: Path) -> None:
    """Keep losses as JSON, sorted, a step a line, rounded so that a diff shows what moved.

    Raises:
        StoreError: the file cannot be written.
    """
    methods_ = []
    for key in sorted(losses):
        steps = ",\n".join(f"  {json.dumps(_rounded(step), sort_keys=True)}" for step in losses[key])
        methods_.append(f" {json.dumps(key)}: [\n{steps}\n ]")
    write_atomically(path, ("{\n" + ",\n".join(methods_) + "\n}\n").encode())


def read(path: Path) -> Losses:
    """Losses that were kept.

    Raises:
        StoreError: there is no such file, or something else is in it.
    """
    mend = "`kdbench guard --update` writes it"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; {mend}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as JSON ({error}); {mend}") from error
    if not _fits(content):
        raise StoreError(f"{path}: holds no loss terms, one list of steps a method; {mend}")
    return {key: [{name: float(v) for name, v in step.items()} for step in steps] for key, steps in content.items()}


def _rounded(step: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.{DIGITS}g}") for name, value in step.items()}


def _fits(content: object) -> bool:
    if not isinstance(content, dict) or not all(isinstance(steps, list) for steps in content.values()):
        return False
    found = [step for steps in content.values() for step in steps]
    return all(isinstance(s, dict) and all(isinstance(v, int | float) for v in s.values()) for s in found)


def _moves(key: str, before: list[dict[str, float]], now: list[dict[str, float]]) -> Iterator[str]:
    """One sentence a term, about the first step at which it is not the same."""
    if len(before) != len(now):
        yield f"{key} has {len(now)} steps, not {len(before)}"
    told: set[str] = set()
    for step, (old, new) in enumerate(zip(before, now, strict=False), 1):
        allowed = FLOOR * sum(map(abs, old.values()))
        for name in sorted(old.keys() | new.keys()):
            if name in told:
                continue
            if name not in new:
                text = f"loss term {name} is gone at step {step}; it was {old[name]:.6g}"
            elif name not in old:
                text = f"loss term {name} is new at step {step}, {new[name]:.6g}"
            elif not abs(new[name] - old[name]) <= TOLERANCE * abs(old[name]) + allowed:
                text = f"loss term {name} moved from {old[name]:.6g} to {new[name]:.6g} at step {step}"
            else:
                continue
            told.add(name)
            yield f"{key}: {text}"


@contextmanager
def _alike(threads: int) -> Iterator[None]:
    """With that many threads, and with the same draws of dropout on every processor."""
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


class _Bench:
    """Data and a teacher for the methods of one case, made when first asked for."""

    def __init__(self, case: Case, root: Path) -> None:
        self.case, self.root, self.device = case, root, torch.device("cpu")
        self.recipe: Recipe = load_recipe(case.recipe, COMMON | case.changes)

    @cached_property
    def data(self) -> tasks.Opened:
        opened: dict[str, Callable[..., tasks.Opened]] = {
            "classification": datasets.open_images,
            "detection": datasets.open_coco,
            "segmentation": datasets.open_masks,
        }
        return opened[self.case.task]("digits", self.root, train=self.case.images, val=self.recipe.batch_size)

    @cached_property
    def task(self) -> Task:
        return tasks.build(self.data, self.recipe, data_seed=0)

    @cached_property
    def batches(self) -> list[Batch]:
        return list(itertools.islice(self.task.batches(0, self.device), self.case.steps))

    @cached_property
    def teacher(self) -> Network:
        """Untrained, with the statistics of a batch in its normalisation, so that its outputs are of a usual size."""
        torch.manual_seed(0)
        network = self._surer(networks.build(self.case.teacher, len(self.data.classes)))
        for norm in (m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            norm.momentum = None
        with torch.no_grad():
            self.task.outputs(network.train(), self.batches[0])
        network.eval().requires_grad_(False)
        return network.to(memory_format=torch.channels_last) if self.recipe.channels_last else network

    @cached_property
    def shown(self) -> list[Outputs]:
        """What the teacher shows for each batch."""
        with torch.no_grad():
            return [self.teacher(batch.teacher_inputs) for batch in self.batches]

    def losses(self, method: str, prepared: Prepared) -> list[dict[str, float]]:
        """The loss terms of a method's first steps, by the harness's own step."""
        member = self._member(method)
        frozen = self.teacher if member.wants_frozen else None
        for network in (member.student, *(member.teachers.networks if member.teachers is not None else ())):
            self._surer(network)
        member.prepare(frozen, prepared)
        terms = []
        for number, batch in enumerate(self.batches):
            own = self.shown[number] if frozen is not None else None
            member.step(batch, own, frozen, Clock(self.device, exact=False))
            terms.append(member.read_losses())
        return terms

    def _member(self, method: str) -> Member:
        options = methods.resolve(method, _changed(methods.resolve(method, {})))
        mode = methods.teacher_mode(method, options)
        run = Run(
            task=self.recipe.task,
            scale="mini",
            # Whatever becomes of the data set, initial weights stay: they are seeded by this.
            data=tasks.describe(self.data).model_copy(update={"fingerprint": "first losses"}),
            student=self.case.student,
            online_teacher=self.case.teacher if mode == "online" else None,
            method=method,
            options=options,
            recipe=self.recipe,
            seed=0,
        )
        info = self.teacher.info if mode == "frozen" else None
        return Member(run, self.task, info, self.root / "runs" / method, self.device)

    def _surer(self, network: Network) -> Network:
        """The network with larger weights in its last layers."""
        with torch.no_grad():
            for name, module in network.named_modules():
                for end, factor in self.case.last.items():
                    if name.endswith(end):
                        module.weight.mul_(factor)
        return network


def _changed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a method's options that `OPTIONS` sets, at every depth."""
    inner = {name: _changed(value) for name, value in options.items() if isinstance(value, dict)}
    return {name: OPTIONS[name] for name in options if name in OPTIONS} | {n: v for n, v in inner.items() if v}
