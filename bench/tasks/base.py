"""The interface of a task: what it declares of itself, and its batches, losses and metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdbench.methods.base import Batch, Outputs, Setting

from ..errors import SpecError
from ..networks.base import Network
from ..spec.recipe import Recipe, UnfitRecipeError
from ..spec.run import Data
from ..text import counted
from . import order
from .loading import cores
from .measurement import Measurement
from .opened import OpenedData
from .shard import WHOLE, Shard

BATCHES = {"train": 0, "prepare": 1, "initial": 2}
"""The streams of batches: the recipe's epochs, and a method's earlier phases without and with the student."""


@dataclass(frozen=True)
class Metric:
    """A metric that a table can be about.

    Attributes:
        key: its name in result rows and tables, such as "top1".
        title: its name in print, such as "top-1 accuracy".
        digits: decimals of a reported number.
    """

    key: str
    title: str
    digits: int = 2


class DataFormat(NamedTuple):
    """What the user's data was recognized as."""

    task: str
    description: str
    image_kind: str  # of the recipes that fit
    also: Mapping[str, Mapping[str, Any]] = MappingProxyType({})  # further kinds, with the data options that they need

    def options(self, image_kind: str) -> dict[str, Any]:
        """Options of the data set with which recipes of a kind read it."""
        return dict(self.also.get(image_kind, {}))


@dataclass(frozen=True)
class Shapes:
    """The shapes of a training run's micro-batches, from which its memory is estimated."""

    task: str
    classes: int
    samples: int
    batch: int
    height: int
    width: int
    precision: str

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


def refuse_views(views: Sequence[str], method: str) -> None:
    """Refuse a method that reads further views of images that are not held as arrays.

    Raises:
        SpecError: names the method and the views.
    """
    if views:
        raise SpecError(
            f"{method} reads further views of each image ({', '.join(views)}), which are made of small images held "
            "as arrays, as CIFAR's, and not here; choose another method"
        )


class Task(ABC):
    """One data set, prepared for one recipe and one seed of the data order.

    A subclass declares what is true of the task on any data set; an instance adds a data set and a recipe.

    Args:
        data: what `open` returned.
        recipe: how networks are trained on it.
        data_seed: seeds the data order and the augmentation.
        workers: loader processes; the batches do not depend on it.

    Attributes:
        name: of the task, as tables, recipes and runs have it.
        metrics: that a table can be about; the first one is the headline metric.
        image_kinds: `image.kind` of the recipes that fit.
        noise_budget: sd of the headline metric from seed to seed, in percent, assumed for data sets without a budget.
        loss_memory: memory that losses keep for the backward pass, where they cannot be traced, as a factor on the
            network's own.
        classes: K names.
        num_samples: size of the training set.
        batch_size: samples a step.
        steps_per_epoch: optimizer steps.
        image_size: height and width at which FLOPs are counted, pixels.
        train_targets: classification: label of every training sample, int64 [num_samples].

    Raises:
        SpecError: the recipe's image kind does not fit the task, or its batch is larger than the training set.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    image_kinds: ClassVar[tuple[str, ...]]
    noise_budget: ClassVar[float]
    loss_memory: ClassVar[float] = 1.0

    image_size: tuple[int, int]
    train_targets: Tensor | None = None

    def __init__(self, data: Any, recipe: Recipe, data_seed: int, workers: int = 0) -> None:
        self.check_image_kind(recipe)
        if recipe.batch_size > len(data.train):
            raise UnfitRecipeError(
                recipe,
                f"batch_size {recipe.batch_size} is above the {counted(len(data.train), 'training image')} of "
                f"{data.path}; lower it with",
                recipe.batch_within(len(data.train)),
            )
        self.data, self.recipe, self.data_seed, self.workers = data, recipe, data_seed, workers
        self.classes: tuple[str, ...] = data.classes
        self.num_samples = len(data.train)
        self.batch_size = recipe.batch_size
        self.steps_per_epoch = recipe.epoch_steps or self.num_samples // self.batch_size

    # A data set of the task

    @classmethod
    @abstractmethod
    def open(cls, name: str, root: Path, path: Path | None = None, options: dict[str, Any] | None = None) -> OpenedData:
        """A data set by name, or the user's own at `path`.

        Args:
            name: of the data set; ignored where there is a `path`.
            root: folder that holds data sets.
            path: the user's data.
            options: of the data set.

        Raises:
            DataError: it is missing or broken, or an option does not fit it.
        """

    @classmethod
    @abstractmethod
    def recognizes(cls, path: Path) -> DataFormat | None:
        """The format of the user's data, if it is for this task; `path` may not exist."""

    @classmethod
    def verify(cls, data: Any, full: bool = False) -> None:
        """Check every file of a data set; with `full`, decode it.

        Raises:
            DataError: names the first broken file.
        """
        data.train.verify(full)
        data.val.verify(full)

    @classmethod
    def describe(cls, data: Any, options: dict[str, Any] | None = None) -> Data:
        """The data set as runs record it, opened with these options."""
        train, val = cls._counts(data)
        return Data(
            name=data.name,
            fingerprint=data.fingerprint,
            train_images=train,
            val_images=val,
            classes=len(data.classes),
            options=options or {},
        )

    @classmethod
    def _counts(cls, data: Any) -> tuple[int, int]:
        """Training and validation images of the whole data set."""
        return len(data.train), len(data.val)

    # Facts that need no opened data

    @classmethod
    def chance(cls, data: Data) -> float:
        """The headline metric, in percent, up to which a network is no better than guessing on this data."""
        return 0.1

    @classmethod
    def guesses(cls, network: str, score: float, data: Data) -> str:
        """What to say of a network whose headline metric, in percent, is no better than guessing; empty if it is.

        Args:
            network: in the words of the message, such as "the teacher resnet56".
            score: the headline metric.
            data: that it was measured on.
        """
        chance = cls.chance(data)
        if score > chance:
            return ""
        return (
            f"{network} scores {score:.1f} {cls.metrics[0].key}, no better than guessing (up to {chance:.1f}): its "
            "training may be too short, its classes in another order, or its images prepared in another way"
        )

    @classmethod
    def check_image_kind(cls, recipe: Recipe) -> None:
        """Reject a recipe whose images are prepared for another task.

        Raises:
            SpecError: names the recipe, the kind and those that fit.
        """
        if recipe.image.kind not in cls.image_kinds:
            raise SpecError(
                f"recipe {recipe.name}: image.kind {recipe.image.kind} does not fit the task {cls.name}, "
                f"which takes {' or '.join(cls.image_kinds)}"
            )

    @classmethod
    @abstractmethod
    def example_setting(cls, samples: int, classes: int) -> Setting:
        """Shapes to build a method on, to check whether its options are possible on so many samples and classes."""

    @classmethod
    @abstractmethod
    def input_size(cls, recipe: Recipe, stored: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the largest training batch.

        Args:
            recipe: of the run.
            stored: height and width of images that are held as arrays.
        """

    @classmethod
    def typical_size(cls, recipe: Recipe, stored: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a usual training batch; arguments as in `input_size`."""
        return cls.input_size(recipe, stored)

    @classmethod
    def stored_size(cls, data: Any) -> tuple[int, int]:
        """Height and width of images that are held as arrays; (0, 0) for files."""
        return 0, 0

    @classmethod
    def stored_bytes(cls, recipe: Recipe, data: Data, stored: tuple[int, int], kind: str) -> int:
        """Memory of a data set that is held as arrays, on a device of a kind ("cpu" or "cuda")."""
        return 0

    @classmethod
    def evaluated_batches(cls, shapes: Shapes, val_images: int) -> float:
        """Size of an evaluation batch, in training batches."""
        return 1.0

    @classmethod
    @abstractmethod
    def example_targets(cls, shapes: Shapes) -> Any:
        """Targets of a batch of these shapes: the first class, and boxes of a quarter of the image."""

    @classmethod
    def example_losses(cls, outputs: Outputs, shapes: Shapes) -> list[Tensor]:
        """Task losses of a traced network, where they need much memory beside it."""
        return []

    # Training and evaluation

    @property
    def headline(self) -> str:
        """Key of the metric that networks are compared by."""
        return self.metrics[0].key

    def check_views(self, views: Sequence[str], method: str) -> None:
        """Refuse a method that reads further views of the images where they are not made.

        Raises:
            SpecError: names the method and the views.
        """
        refuse_views(views, method)

    @abstractmethod
    def batches(
        self,
        epoch: int,
        device: torch.device,
        stream: str = "train",
        skip: int = 0,
        shard: Shard = WHOLE,
        views: Sequence[str] = (),
    ) -> Iterator[Batch]:
        """The training batches of an epoch; they depend on the data seed, the epoch and the stream alone.

        Args:
            epoch: counted from 0.
            device: of the batches.
            stream: one of `BATCHES`; each has its own order.
            skip: batches to leave out at the start.
            shard: the part of each batch that is wanted.
            views: further views in each batch; neither the batch nor a view depends on which others are asked for.
        """

    @abstractmethod
    def outputs(self, network: Network, batch: Batch) -> Outputs:
        """The student's forward, with the task's weighted losses in `Outputs.losses`."""

    @abstractmethod
    def measure(
        self,
        network: Network,
        device: torch.device,
        reference: bool = True,
        full: bool = False,
        teacher: Tensor | None = None,
        shard: Shard = WHOLE,
    ) -> Measurement:
        """Evaluate a network on the validation set, which it sees once.

        Args:
            network: to evaluate.
            device: of the network.
            reference: use the evaluator that final numbers come from.
            full: use the teacher's inputs where a variant of the data reduces the student's.
            teacher: another network's `Measurement.predictions`, to measure the agreement with.
            shard: of this process, where several share the validation set; each gets the result of the whole.
        """

    def evaluate(
        self, network: Network, device: torch.device, reference: bool, full: bool = False, shard: Shard = WHOLE
    ) -> dict[str, float]:
        """The metrics of `measure`, in percent."""
        return self.measure(network, device, reference, full, shard=shard).metrics

    @abstractmethod
    def evaluator(self, reference: bool) -> str:
        """Name and version of the library that computes the metrics."""

    def flops(self, network: Network) -> float:
        """Floating-point operations of one forward on one image at `image_size`."""
        image = torch.zeros(1, 3, *self.image_size, device=next(network.parameters()).device)
        training = network.training
        counter = FlopCounterMode(display=False)
        with counter, torch.inference_mode():
            self._forward(network.eval(), image)
        network.train(training)
        return float(counter.get_total_flops())

    @property
    def reads_files(self) -> bool:
        """Whether batches are read from files while networks train."""
        return True

    def faster_loading(self) -> str:
        """What to do where training waits for batches."""
        if self.workers < cores() - 1:
            return f"give it more with --workers ({counted(cores(), 'core')} here)"
        return "no core is left for more; with --cohort more students share the images"

    def endless(
        self, device: torch.device, stream: str, shard: Shard = WHOLE, views: Sequence[str] = ()
    ) -> Iterator[Batch]:
        """Batches without end, for a method's earlier phase."""
        epoch = 0
        while True:
            yield from self.batches(epoch, device, stream, shard=shard, views=views)
            epoch += 1

    @property
    def _epoch_samples(self) -> int:
        """Samples an epoch takes."""
        return self.steps_per_epoch * self.batch_size

    def _epoch(self, epoch: int, stream: str) -> order.Epoch:
        """The samples of an epoch and their order."""
        samples, count = self.num_samples, self._epoch_samples
        parts = order.parts(epoch, samples, count, endless=self.recipe.epoch_steps is not None)
        return order.Epoch(epoch, (self.data_seed, BATCHES[stream]), samples, count, tuple(parts))

    def _forward(self, network: Network, images: Tensor) -> object:
        """The forward pass of evaluation, with a network in evaluation mode."""
        return network(images)
