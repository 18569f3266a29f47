"""Comparisons of tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts have the same names and bitwise the same values."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def buffers(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's buffers, by name."""
    return {name: value.clone() for name, value in network.named_buffers()}
