"""What the training loop needs of a task: batches, losses, a metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdbench.methods.base import Batch, Outputs

from ..errors import SpecError
from ..networks.base import Network
from ..spec.recipe import Recipe
from . import order

BATCHES = {"train": 0, "prepare": 1, "initial": 2}
"""The streams of batches: the recipe's epochs, and a method's earlier phases without and with the student."""


class Task(ABC):
    """One data set, prepared for one recipe and one seed of the data order.

    Attributes:
        headline: name of the metric that decides.
        recipe: how it is trained on.
        data_seed: of the data order and the augmentation.
        classes: K names.
        num_samples: size of the training set.
        batch_size: samples a step.
        steps_per_epoch: optimiser steps.
        image_size: height and width that FLOPs are quoted at, pixels.
        train_targets: classification: label of every training sample, int64 [num_samples].
    """

    headline: str
    recipe: Recipe
    data_seed: int
    classes: tuple[str, ...]
    num_samples: int
    batch_size: int
    steps_per_epoch: int
    image_size: tuple[int, int]
    train_targets: Tensor | None = None

    @abstractmethod
    def batches(self, epoch: int, device: torch.device, stream: str = "train", skip: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch (counted from 0); the same for whoever asks, whatever ran before.

        Another `stream` gives another order, for a method's earlier phase. The first `skip` batches are left out.
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

    def evaluate_teacher(self, network: Network, device: torch.device) -> tuple[dict[str, float], Tensor | None]:
        """A teacher's metrics by the reference evaluator, on what a teacher sees, and its answers.

        Answers are the class that it gives each validation image, int64 [N] on the CPU; None for tasks that do not
        measure their students against that.
        """
        return self.evaluate(network, device, reference=True, full=True), None

    def evaluate_student(
        self, network: Network, device: torch.device, answers: Tensor | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """A student's metrics by the reference evaluator, and its agreement with a teacher's answers, in percent."""
        return self.evaluate(network, device, reference=True), {}

    @abstractmethod
    def evaluator(self, reference: bool) -> str:
        """Name and version of what computes the metrics."""

    def flops(self, network: Network) -> float:
        """Floating-point operations of one forward on one image at `image_size`."""
        image = torch.zeros(1, 3, *self.image_size, device=next(network.parameters()).device)
        training = network.training
        counter = FlopCounterMode(display=False)
        with counter, torch.inference_mode():
            self._forward(network.eval(), image)
        network.train(training)
        return float(counter.get_total_flops())

    def endless(self, device: torch.device, stream: str) -> Iterator[Batch]:
        """Batches without end, for a method's earlier phase."""
        epoch = 0
        while True:
            yield from self.batches(epoch, device, stream)
            epoch += 1

    @property
    def _epoch_samples(self) -> int:
        """Samples an epoch takes."""
        return self.steps_per_epoch * self.batch_size

    def _parts(self, epoch: int) -> list[order.Part]:
        return order.parts(epoch, self.num_samples, self._epoch_samples, self.recipe.epoch_steps is not None)

    def _keys(self, epoch: int, stream: str) -> list[order.Key]:
        """The samples of an epoch."""
        return order.keys((self.data_seed, BATCHES[stream]), self.num_samples, self._parts(epoch))

    def _forward(self, network: Network, images: Tensor) -> object:
        """What evaluation does with a network in evaluation mode."""
        return network(images)


def refuse_large_batch(recipe: Recipe, samples: int, path: Path) -> None:
    """Refuse a batch that is larger than the training set.

    Raises:
        SpecError: it is; names the recipe and the data.
    """
    if recipe.batch_size > samples:
        raise SpecError(
            f"recipe {recipe.name}: batch_size {recipe.batch_size} is above the {samples} training images "
            f"of {path}; lower it with --set batch_size=N"
        )


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The precision of a recipe's forward passes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
