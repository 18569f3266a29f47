"""Random states: each member of a cohort draws from its own, so company changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class RandomState:
    """The random state of one member, made current while the member works.

    Outside of `current` the global state belongs to nobody: data draws seed themselves.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        torch.manual_seed(seed)
        self._remember()

    @contextmanager
    def current(self) -> Iterator[None]:
        torch.set_rng_state(self.cpu)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, self.device)
        try:
            yield
        finally:
            self._remember()

    def _remember(self) -> None:
        self.cpu: Tensor = torch.get_rng_state()
        if self.device.type == "cuda":
            self.cuda: Tensor = torch.cuda.get_rng_state(self.device)

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": self.cpu} | ({"cuda": self.cuda} if self.device.type == "cuda" else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cpu = state["cpu"]
        if self.device.type == "cuda":
            self.cuda = state["cuda"]
