"""What the training loop needs of a task: batches, losses, a metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from bench.networks.base import Network
from bench.recipe import Recipe
from methods.base import Batch, Outputs

BATCHES = {"train": 0, "prepare": 1, "initial": 2}
"""The streams of batches: the recipe's epochs, and a method's earlier phases without and with the student."""


class Task(ABC):
    """One data set, prepared for one recipe and one seed of the data order.

    Attributes:
        headline: name of the metric that decides.
        classes: K names.
        num_samples: size of the training set.
        batch_size: samples a step.
        steps_per_epoch: optimiser steps.
        image_size: height and width that FLOPs are quoted at, pixels.
        train_targets: classification: label of every training sample, int64 [num_samples].
    """

    headline: str
    classes: tuple[str, ...]
    num_samples: int
    batch_size: int
    steps_per_epoch: int
    image_size: tuple[int, int]
    train_targets: Tensor | None = None

    @abstractmethod
    def batches(self, epoch: int, device: torch.device, stream: str = "train") -> Iterator[Batch]:
        """The training batches of an epoch (counted from 0); the same for whoever asks, whatever ran before.

        Another `stream` gives another order, for a method's earlier phase.
        """

    @abstractmethod
    def outputs(self, network: Network, batch: Batch) -> Outputs:
        """The student's forward, with the task's weighted losses in `Outputs.losses`."""

    @abstractmethod
    def evaluate(self, network: Network, device: torch.device, reference: bool, full: bool = False) -> dict[str, float]:
        """Metrics in percent on the validation set.

        Args:
            network: what is evaluated.
            device: where.
            reference: use the evaluator that final numbers come from.
            full: show it what a teacher sees, where the data's variant shows the student less.
        """

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
