"""Whether an exported file computes what its network does: on random images, and by the metric of the run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdbench.methods.base import NetworkInfo, Outputs

from ..errors import CheckpointError
from ..networks.base import Detector, Network, Target
from ..records.history import Record
from ..tasks.base import Task
from .formats import Function
from .plain import Plain

TOLERANCE = 1e-4
"""Percentage points by which a metric may differ. That is no image of a classifier's: float32 in another order of
summation changes logits by some 1e-6, which turned none of 50,000 predictions of a network on random images."""

RELATIVE, ABSOLUTE = 1e-3, 1e-4
"""Of the largest output, and beside it: what float32 in another order of summation may change on random images."""


class Check(Record):
    """What an exported file was found to compute.

    Attributes:
        random_images: how many were compared.
        largest_difference: of its outputs to the network's on these; of detectors, of the scores.
        metric: that was measured on the validation images; None where these were not at hand.
        measured: by the file, percent.
        recorded: in the run's row, percent.
        network: by the network itself, here, where the row was measured elsewhere and differs; percent.
        reason: why the metric was not measured.
    """

    random_images: int = 0
    largest_difference: float = 0.0
    metric: str | None = None
    measured: float | None = None
    recorded: float | None = None
    network: float | None = None
    reason: str = ""


class MismatchError(CheckpointError):
    """An exported file computes something else than its network."""


class _Loaded(Network):
    """A file as the network of a classifier or segmenter, for evaluation."""

    def __init__(self, function: Function, num_classes: int) -> None:
        super().__init__()
        self.function, self.num_classes, self.info = function, num_classes, NetworkInfo(channels=())

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        return Outputs(logits=self.function(x)[0], features=())


class _LoadedDetector(Detector):
    """A file as a detector, for evaluation: one image after the other."""

    def __init__(self, function: Function, num_classes: int) -> None:
        super().__init__()
        self.function, self.num_classes, self.info = function, num_classes, NetworkInfo(channels=())

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        raise NotImplementedError("an exported detector has detections alone")

    def forward_head(self, features: tuple[Tensor, ...], x: Tensor, targets: list[Target] | None) -> Outputs:
        raise NotImplementedError("an exported detector has detections alone")

    def detect(self, x: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        found = []
        for image, size in zip(x.split(1), sizes, strict=True):
            boxes, scores, labels = self.function(image, torch.tensor(size))
            real = scores > 0
            found.append({"boxes": boxes[real], "scores": scores[real], "labels": labels[real]})
        return found


def loaded_network(function: Function, task: str, num_classes: int) -> Network:
    """A file's function as a network that the task evaluates."""
    return (_LoadedDetector if task == "detection" else _Loaded)(function, num_classes)


def compare_outputs(network: Plain, function: Function) -> tuple[int, float]:
    """The number of random images on which a file and its network were compared, and their largest difference.

    Raises:
        MismatchError: they differ by more than rounding, or the file fails.
    """
    generator = torch.Generator().manual_seed(0)
    images, largest = 0, 0.0
    for inputs in _random_inputs(network, generator):
        with torch.no_grad():
            expected = network.module(*inputs)
        try:
            found = function(*inputs)
        except Exception as error:  # a runtime raises anything for a graph that it cannot run
            shape = "x".join(map(str, inputs[0].shape))
            raise MismatchError(f"the exported file fails on an input of {shape}: {error}") from error
        column = 1 if isinstance(expected, tuple) else 0
        reference = expected[column] if isinstance(expected, tuple) else expected
        difference = _largest(found[column] - reference) if found[column].shape == reference.shape else math.inf
        if not difference <= RELATIVE * _largest(reference) + ABSOLUTE:
            raise MismatchError(
                f"the exported file's {list(network.outputs)[column]} differ by up to {difference:.3g} from the "
                f"network's on random images of {'x'.join(map(str, inputs[0].shape))}"
            )
        images, largest = images + len(inputs[0]), max(largest, difference)
    return images, largest


def _largest(values: Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0


def _random_inputs(network: Plain, generator: torch.Generator) -> list[tuple[Tensor, ...]]:
    """Random inputs of the sizes that the inputs' shapes allow: one image, several, and another height and width."""
    shape = next(iter(network.inputs.values()))
    height, width = network.example[0].shape[-2:]
    sizes = [(height, width)]
    if "H" in shape:
        sizes.append((height + 32, width + 64) if "size" in network.inputs else (height + 13, width + 22))
    inputs: list[tuple[Tensor, ...]] = []
    for count in (1, 3) if "N" in shape else (1,):
        for rows, columns in sizes:
            images = torch.randn(count, 3, rows, columns, generator=generator)
            inputs.append((images, torch.tensor([rows - 5, columns - 9])) if "size" in network.inputs else (images,))
    return inputs


def check(
    network: Plain,
    source: Network,
    function: Function,
    task: Task | str,
    recorded: dict[str, float],
    tolerance: float = TOLERANCE,
) -> Check:
    """Compare a file with its network, and measure it.

    Args:
        network: that the file was made of.
        source: the same network, as kdbench trained it.
        function: of the file.
        task: on the run's data; or why that is not at hand.
        recorded: metrics of the run's row, percent.
        tolerance: percentage points by which the metric may differ.

    Raises:
        MismatchError: the file computes something else.
    """
    images, difference = compare_outputs(network, function)
    if isinstance(task, str):
        return Check(random_images=images, largest_difference=difference, reason=task)
    cpu, key = torch.device("cpu"), task.headline
    measured = task.evaluate(loaded_network(function, task.name, len(task.classes)), cpu, reference=True)[key]
    own = None
    if abs(measured - recorded[key]) > tolerance:  # of a row that was measured on another device, perhaps
        own = task.evaluate(source, cpu, reference=True)[key]
        if abs(measured - own) > tolerance:
            raise MismatchError(
                f"the exported file has {key} {measured:.4f} on the validation images and the network {own:.4f}: "
                f"{abs(measured - own):.2g} points apart, and {tolerance:g} are allowed; --tolerance allows more, such "
                f"as {100 / len(task.data.val):.2g} for one image of {len(task.data.val)}"
            )
    return Check(
        random_images=images,
        largest_difference=difference,
        metric=key,
        measured=measured,
        recorded=recorded[key],
        network=own,
    )
