"""Online teachers: the teachers that train together with a student."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.base import Outputs

from .. import networks
from ..errors import SpecError
from ..networks.base import Network
from ..spec.run import Run, init_seed


class OnlineTeachers(nn.Module):
    """Teachers of one architecture with different initial weights, and the latest snapshot of the first one.

    Args:
        teachers: the first one is saved and measured at the end.
        snapshots: number of snapshots of the first teacher; 0 for none.
        steps: of the whole training. Snapshot k is taken before step k * steps / (snapshots + 1), counted from 0 and
            rounded up.
    """

    def __init__(self, teachers: Sequence[Network], snapshots: int, steps: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(teachers)
        self.snapshots, self.steps = snapshots, steps
        self.snapshot = copy.deepcopy(teachers[0]).requires_grad_(False) if snapshots else None

    @property
    def trained(self) -> list[Network]:
        return [cast(Network, network) for network in self.networks]

    @property
    def first(self) -> Network:
        return self.trained[0]

    def begin(self, step: int) -> None:
        """Take the snapshot that is due when a step of the training, counted from 0, begins."""
        if self.snapshot is not None and self._taken(step) > self._taken(step - 1):
            self.snapshot.load_state_dict(self.first.state_dict())

    def forward(self, x: Tensor, step: int) -> Outputs:
        """The first teacher's outputs in train mode, with those of the others and of the snapshot in `others`.

        Args:
            x: [N, 3, H, W].
            step: of the training, counted from 0; it has begun.
        """
        self.networks.train()
        outputs: list[Outputs] = [network(x) for network in self.networks]
        if self.snapshot is not None and self._taken(step):
            with torch.no_grad():
                outputs.append(self.snapshot.eval()(x))
        return replace(outputs[0], others=tuple(outputs[1:]))

    def _taken(self, step: int) -> int:
        """Number of snapshots taken when `step` begins; depends on the step alone, so it holds for resumed runs."""
        return max((self.snapshots + 1) * step // self.steps, 0)


def teacher_names(run: Run) -> tuple[str, ...]:
    """The network of a run's online teachers, once for each of them; empty for a run without."""
    if run.online_teacher is None:
        return ()
    return (run.online_teacher,) * methods.method_class(run.method).online_teachers(run.options)


def snapshot_names(run: Run) -> tuple[str, ...]:
    """The network of the snapshot that a run keeps of its online teacher; empty for most runs."""
    return teacher_names(run)[:1] if _snapshots(run) else ()


def check(run: Run) -> None:
    """Reject several online teachers with the same published initial weights: they would stay equal.

    Raises:
        SpecError: names the method and the init.
    """
    names, init = teacher_names(run), run.recipe.init
    if len(names) > 1 and init != "random":
        raise SpecError(
            f"{run.method}: {len(names)} teachers would all start from the weights of init {init!r} and stay equal; "
            "set init to random, or teachers to 1"
        )


def build(run: Run, num_classes: int, steps: int) -> OnlineTeachers | None:
    """A run's online teachers; their initial weights depend on neither the student nor the number of teachers.

    Args:
        run: the spec.
        num_classes: of the data.
        steps: of the whole training.

    Raises:
        SpecError: as `check`.
    """
    names, init = teacher_names(run), run.recipe.init
    if not names:
        return None
    check(run)
    teachers = []
    for number, name in enumerate(names, 1):
        # Not the student's seed: with equal weights, a teacher of the student's network would have nothing to teach.
        role = f"{name} as teacher" if number == 1 else f"{name} as teacher {number}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed(run.data.fingerprint, role, run.seed))
            teachers.append(networks.build(name, num_classes, init))
    return OnlineTeachers(teachers, _snapshots(run), steps)


def _snapshots(run: Run) -> int:
    return methods.method_class(run.method).teacher_snapshots(run.options)
