"""Trains every method for some steps: in two processes that share each batch, or in one that does what both do.

`python -m tests.helpers.two_ranks FILE KEY...` is one process alone; with RANK, WORLD_SIZE and MASTER_PORT in the
environment it is one of several. The first one saves the trained tensors of each key, `case/method`, in the file.
BatchNorm is fixed, so that a batch's images do not depend on each other but by the method.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, distributed, nn

from kdbench.methods import cirkd, crd
from kdbench.methods.base import Batch
from kdbench.networks.base import Network
from kdbench.regress import first_losses
from kdbench.regress.first_losses import CASES, _CaseSetup
from kdbench.spec.schema import digest
from kdbench.train import ranks
from kdbench.train.micro_batches import micro_batches
from kdbench.train.preparation import prepare
from kdbench.train.rng import RandomState
from kdbench.train.step import StudentStep, student_step, teacher_forward
from kdbench.train.student import Student
from kdbench.train.timing import StepTimer

STEPS = {"classification": 2, "detection": 1, "two-stage detection": 1, "segmentation": 1}
"""Of each task."""
MORE_STEPS = {"classification": 5, "detection": 2, "two-stage detection": 1, "segmentation": 2}
"""With MORE_STEPS in the environment. Twenty were equal, too, but CIRKD's, whose softmax of similarities / 0.1 turns
one rounding into 1e-3 by then."""
IMAGES = 8
"""Of a classifier's batch."""

TOGETHER = ("crd", "cirkd")
"""Methods that remember embeddings of all processes: what they draw is fixed here, and one process takes the whole
batch, with CIRKD's chunks as large as a shard."""


def setups() -> dict[str, _CaseSetup]:
    folder = Path(tempfile.mkdtemp())
    # Initial phases of one process take halves of batches in turn, as the step here does.
    accumulate = 2 if ranks.world_size() == 1 else 1
    found = {}
    every = MORE_STEPS if "MORE_STEPS" in os.environ else STEPS
    for case in (case for case in CASES if case.name in every):
        steps = every[case.name]
        changes: dict[str, Any] = {"epoch_steps": steps, "accumulate": accumulate}
        if case.name == "classification":
            changes["batch_size"] = IMAGES
        longer = replace(case, steps=steps, changes=case.changes | changes)
        found[case.name] = _CaseSetup(longer, folder / case.name)
    return found


def trained(setup: _CaseSetup, method: str) -> dict[str, Tensor]:
    """The tensors of a student and its method after some steps."""
    student = setup._student(method)
    together = bool(set(method.split("+")) & set(TOGETHER))
    for module in (student.network, student.method, student.online_teachers):
        _fix_batchnorm(module)
        for layer in module.modules() if together and module is not None else ():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
    frozen = setup.teacher if student.uses_frozen_teacher else None
    if frozen is not None:
        prepare(student, frozen, {})
    step = _sharded if ranks.world_size() > 1 else _whole if together else _InTurn(student)
    for batch in setup.batches:
        if setup.case.task == "segmentation":  # a mean over pixels that count is none over images
            batch = replace(batch, targets=batch.targets.clamp(max=len(setup.task.classes) - 1))
        step(student, batch, frozen)
        student.read_losses()
    modules = {"student": student.network, "method": student.method, "teachers": student.online_teachers}
    states = [(part, module.state_dict()) for part, module in modules.items() if module is not None]
    return {f"{part}.{name}": value.clone() for part, state in states for name, value in state.items()}


def _fix_batchnorm(module: nn.Module | None) -> None:
    for layer in module.modules() if module is not None else ():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
            layer.train = lambda _mode=True, layer=layer: layer  # type: ignore[method-assign,assignment]


def _sharded(student: Student, batch: Batch, teacher: Network | None) -> None:
    part = micro_batches(batch, len(batch.inputs) // 2)[ranks.rank()][0]
    outputs = None if teacher is None else teacher_forward(teacher, part, student.run.recipe)
    student_step(student, part, teacher, outputs, StepTimer(student.device, exact=False))


def _whole(student: Student, batch: Batch, teacher: Network | None) -> None:
    outputs = None if teacher is None else teacher_forward(teacher, batch, student.run.recipe)
    student_step(student, batch, teacher, outputs, StepTimer(student.device, exact=False))


class _InTurn:
    """A step of both processes, one after the other, each with its random state."""

    def __init__(self, student: Student) -> None:
        second = int(digest([student.run.init_seed, "draws", 1]), 16) % 2**63
        self.states = [student.random_state, RandomState(second, student.device)]

    def __call__(self, student: Student, batch: Batch, teacher: Network | None) -> None:
        step = StudentStep(student, StepTimer(student.device, exact=False))
        step.begin()
        before = {name: value.clone() for name, value in student.method.named_buffers()}
        for state, (part, share) in zip(self.states, micro_batches(batch, len(batch.inputs) // 2), strict=True):
            student.random_state = state
            for name, value in student.method.named_buffers():  # spectral norms, which each process moves once a step
                value.copy_(before[name])
            outputs = None if teacher is None else teacher_forward(teacher, part, student.run.recipe)
            step.add_gradients(part, share, teacher, outputs)
        step.update()


@contextmanager
def _without_draws() -> Iterator[None]:
    """CRD and CIRKD take the same entries whatever process asks, and CIRKD's means are of a shard."""

    def entries(method: crd.CRD, batch: Batch) -> Tensor:
        others = (batch.index[:, None] + 1 + torch.arange(method.negatives)) % len(method.order)
        return torch.cat([batch.index[:, None], others], dim=1)

    def first(queue: Tensor, size: int) -> Tensor:
        return queue[:, : size // len(queue) + 1].flatten(0, 1)

    def keys(shape: torch.Size, device: torch.device) -> Tensor:
        return torch.linspace(1, 0.5, shape[-1], device=device).expand(shape)

    with (
        mock.patch.object(crd.CRD, "draw", entries),
        mock.patch.object(cirkd, "_draw", first),
        mock.patch.object(torch, "rand", keys),
        mock.patch.dict(first_losses.OPTIONS, {"chunk": 2}),
    ):
        yield


def results(keys: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """The trained tensors of each key, by this process and those that it has joined."""
    by_case, found = setups(), {}
    for key in keys:
        case, _, method = key.partition("/")
        with _without_draws() if set(method.split("+")) & set(TOGETHER) else nullcontext():
            found[key] = trained(by_case[case], method)
    return found


def main() -> None:
    file, *keys = sys.argv[1:]
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = distributed.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), world_size, rank == 0)
        ranks.join(store, rank, world_size)
    found = results(keys)
    if ranks.rank() == 0:
        torch.save(found, file)
    if distributed.is_initialized():
        distributed.barrier()


if __name__ == "__main__":
    main()
