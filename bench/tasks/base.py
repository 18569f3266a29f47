"""What the training loop needs of a task: batches, losses, a metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch

from bench.networks.base import Network
from bench.specs import Recipe
from methods.base import Batch, Outputs


class Task(ABC):
    """One data set, prepared for one recipe and one seed of the data order."""

    headline: str
    num_classes: int
    num_samples: int
    steps_per_epoch: int
    image_size: tuple[int, int]

    @abstractmethod
    def batches(self, epoch: int, device: torch.device, stream: str = "train") -> Iterator[Batch]:
        """The training batches of an epoch (counted from 0); the same for whoever asks, whatever ran before.

        Another `stream` gives another order, for a method's earlier phase.
        """

    @abstractmethod
    def outputs(self, network: Network, batch: Batch) -> Outputs:
        """The student's forward, with the task's weighted losses in `Outputs.losses`."""

    @abstractmethod
    def evaluate(self, network: Network, device: torch.device, reference: bool) -> dict[str, float]:
        """Metrics in percent on the validation set; `reference` uses the evaluator that final numbers come from."""

    @abstractmethod
    def evaluator(self, reference: bool) -> str:
        """Name and version of what computes the metrics."""

    @abstractmethod
    def flops(self, network: Network) -> float:
        """Floating-point operations of one forward on one image at `image_size`."""

    def endless(self, device: torch.device, stream: str) -> Iterator[Batch]:
        """Batches without end, for a method's earlier phase."""
        epoch = 0
        while True:
            yield from self.batches(epoch, device, stream)
            epoch += 1


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The precision of a recipe's forward passes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
