"""What every network of the harness answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from kdbench.methods.base import Batch, NetworkInfo, Outputs


class Network(nn.Module, ABC):
    """A teacher or a student. One forward shows everything that methods read, as `Outputs`."""

    info: NetworkInfo
    num_classes: int

    @abstractmethod
    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        """Normalised images [N, 3, H, W] -> `Outputs`; with targets, the network's own losses are in it too."""

    def answer(self, own: Outputs, student: Outputs, batch: Batch) -> Outputs:
        """As a teacher: `own`, completed with what depends on the student, such as its region proposals."""
        return own

    def named_here(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict under the names that this network's own library gives it -> under this network's."""
        return state
