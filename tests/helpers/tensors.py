"""Comparisons of tensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn


def equal(first: object, second: object) -> bool:
    """Whether two values are bitwise the same: tensors, and mappings, sequences and dataclasses of them."""
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        tensors = isinstance(first, Tensor) and isinstance(second, Tensor)
        return tensors and first.dtype == second.dtype and torch.equal(first, second)
    if is_dataclass(first) and type(first) is type(second):
        return all(equal(getattr(first, part.name), getattr(second, part.name)) for part in fields(first))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(equal(value, second[name]) for name, value in first.items())
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def buffers(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's buffers, by name."""
    return {name: value.clone() for name, value in network.named_buffers()}
