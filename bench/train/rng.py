"""Random states: each student of a cohort has one, so that its draws are the same as when it is trained alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class RandomState:
    """The random state of one student: torch's global one while it is `current`.

    Nothing else draws from the global state: data order and augmentation have generators of their own.

    Args:
        seed: of the state.
        device: the state includes that of this CUDA device.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        torch.manual_seed(seed)
        self._store()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Draw from this state inside, and keep it as the block leaves it."""
        torch.set_rng_state(self.cpu)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, self.device)
        try:
            yield
        finally:
            self._store()

    def _store(self) -> None:
        self.cpu: Tensor = torch.get_rng_state()
        if self.device.type == "cuda":
            self.cuda: Tensor = torch.cuda.get_rng_state(self.device)

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": self.cpu} | ({"cuda": self.cuda} if self.device.type == "cuda" else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cpu = state["cpu"]
        if self.device.type == "cuda":
            self.cuda = state["cuda"]
