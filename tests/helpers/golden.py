"""Golden values: arrays recorded from the authors' own code (tests/golden/index.json says of what)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdbench.methods.base import Batch, NetworkInfo, Setting

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5
"""Relative to the loss, and to a gradient's largest element."""


def load(name: str) -> dict[str, Tensor]:
    """The arrays of a file as tensors, each a leaf that may require a gradient."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def batch(images: int, targets: Tensor | None = None, index: Tensor | None = None) -> Batch:
    return Batch(torch.zeros(images, 3, 8, 8), targets, torch.arange(images) if index is None else index)


def setting(student: NetworkInfo, teacher: NetworkInfo, task: str = "classification", classes: int = 10) -> Setting:
    return Setting(task, classes, 8, student, teacher, steps_per_epoch=1)


def leaf(array: Tensor) -> Tensor:
    return array.clone().requires_grad_()


def fill(module: nn.Module, **arrays: Tensor) -> None:
    """Set parameters by their names, `_` for `.`; all others stay as they are."""
    parameters = dict(module.named_parameters())
    for name, array in arrays.items():
        parameter = parameters[name.replace("__", ".")]
        parameter.data.copy_(array.view_as(parameter))


def assert_golden(
    loss: Tensor, expected: Tensor, gradients: dict[str, tuple[Tensor, Tensor]], tolerance: float = TOLERANCE
) -> None:
    """Compare a loss, and each leaf's gradient with the recorded one; the dict is by name: (leaf, recorded)."""
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    found = torch.autograd.grad(loss, [tensor for tensor, _ in gradients.values()])
    for (name, (_, recorded)), gradient in zip(gradients.items(), found, strict=True):
        difference = (gradient - recorded.view_as(gradient)).abs().max()
        assert difference <= tolerance * recorded.abs().max(), name
