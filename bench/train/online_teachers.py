"""The teachers that a run trains beside its student."""

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
    """Teachers of one network, each with weights of its own, and the copy of the first that a student may follow.

    Args:
        taught: the teachers; the first is the one that is kept and measured.
        snapshots: how many copies are taken of the first; 0 keeps none.
        steps: of the whole training. Copy k is taken before step k * steps / (snapshots + 1), counted from 0 and
            rounded up.
    """

    def __init__(self, taught: Sequence[Network], snapshots: int, steps: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(taught)
        self.snapshots, self.steps = snapshots, steps
        self.copy = copy.deepcopy(taught[0]).requires_grad_(False) if snapshots else None

    @property
    def first(self) -> Network:
        return cast(Network, self.networks[0])

    def forward(self, x: Tensor, step: int) -> Outputs:
        """What the first shows of `x`, [N, 3, H, W], in train mode at `step`, with `others` as methods read them."""
        taken = self._taken(step)
        if self.copy is not None and taken > self._taken(step - 1):
            self.copy.load_state_dict(self.first.state_dict())
        self.networks.train()
        shown: list[Outputs] = [network(x) for network in self.networks]
        if self.copy is not None and taken:
            with torch.no_grad():
                shown.append(self.copy.eval()(x))
        return replace(shown[0], others=tuple(shown[1:]))

    def _taken(self, step: int) -> int:
        """How many copies have been taken when `step` begins; needs no memory, so a resumed run knows it as well."""
        return max((self.snapshots + 1) * step // self.steps, 0)


def teachers(run: Run) -> tuple[str, ...]:
    """The networks that learn beside a run's student: none, or one name once for each of them."""
    if run.online_teacher is None:
        return ()
    return (run.online_teacher,) * methods.method_class(run.method).online_teachers(run.options)


def copied(run: Run) -> tuple[str, ...]:
    """The network that is copied while it learns, and answers beside itself; none for most runs."""
    return teachers(run)[:1] if _snapshots(run) else ()


def check(run: Run) -> None:
    """Refuse several teachers that would begin with the same published weights, and so stay equal.

    Raises:
        SpecError: names the method and the init.
    """
    names, init = teachers(run), run.recipe.init
    if len(names) > 1 and init != "random":
        raise SpecError(
            f"{run.method}: {len(names)} teachers would all begin with the weights of init {init!r} and stay equal; "
            "set init to random, or teachers to 1"
        )


def build(run: Run, num_classes: int, steps: int) -> OnlineTeachers | None:
    """A run's online teachers, from initial weights that depend on neither its student nor each other.

    Raises:
        SpecError: as `check`.
    """
    names, init = teachers(run), run.recipe.init
    if not names:
        return None
    check(run)
    built = []
    for number, name in enumerate(names, 1):
        # Another seed than a student's: of two equal networks with equal weights, neither has anything to teach.
        role = f"{name} as teacher" if number == 1 else f"{name} as teacher {number}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed(run.data.fingerprint, role, run.seed))
            built.append(networks.build(name, num_classes, init))
    return OnlineTeachers(built, _snapshots(run), steps)


def _snapshots(run: Run) -> int:
    return methods.method_class(run.method).teacher_snapshots(run.options)
