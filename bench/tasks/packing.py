"""Nested tensors as one tensor of bytes, so that a batch is one transfer from process to process and to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNED = 64
"""Bytes at whose multiples tensors begin: enough for any type, and a line of a processor's cache."""


class Place(NamedTuple):
    """Where a tensor is among the bytes."""

    begin: int
    size: int
    dtype: torch.dtype
    shape: torch.Size


class Packed:
    """A packed value. Loader processes send it, and a `DataLoader` pins its memory.

    Args:
        data: uint8 [bytes].
        layout: the value with a `Place` for every tensor.
    """

    def __init__(self, data: Tensor, layout: Any) -> None:
        self.data, self.layout = data, layout

    @classmethod
    def of(cls, value: Any) -> Packed:
        """The tensors in the lists, tuples and dicts of a value, packed; what else they hold stays as it is."""
        tensors = list(_tensors(value))
        places, end = [], 0
        for tensor in tensors:
            places.append(Place(end, tensor.nbytes, tensor.dtype, tensor.shape))
            end = -(-(end + tensor.nbytes) // ALIGNED) * ALIGNED
        data = torch.empty(end, dtype=torch.uint8)
        for tensor, place in zip(tensors, places, strict=True):
            _tensor(data, place).copy_(tensor)
        in_order = iter(places)
        return cls(data, mapped(value, lambda _: next(in_order)))

    def pin_memory(self) -> Packed:
        """The same in pinned memory, from which copies to the device are asynchronous."""
        return Packed(self.data.pin_memory(), self.layout)

    def unpacked(self, device: torch.device) -> Any:
        """The value on a device, after one transfer; its tensors share memory, and on a CPU that of `data`."""
        data = self.data.to(device, non_blocking=self.data.is_pinned())
        return _with_places(self.layout, lambda place: _tensor(data, place))


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """`value` with every tensor in its lists, tuples and dicts changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: mapped(inner, change) for name, inner in value.items()}
    return type(value)(mapped(inner, change) for inner in value) if isinstance(value, list | tuple) else value


def joined(parts: Sequence[Any]) -> Any:
    """The parts of a batch as one: tensors and lists are joined, in tuples and dicts each for itself."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, list):
        return list(chain(*parts))
    if isinstance(first, dict):
        return {name: joined([part[name] for part in parts]) for name in first}
    return tuple(joined(fields) for fields in zip(*parts, strict=True))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)


def _with_places(layout: Any, change: Callable[[Place], Tensor]) -> Any:
    if isinstance(layout, Place):
        return change(layout)
    if isinstance(layout, dict):
        return {name: _with_places(inner, change) for name, inner in layout.items()}
    return type(layout)(_with_places(i, change) for i in layout) if isinstance(layout, list | tuple) else layout


def _tensor(data: Tensor, place: Place) -> Tensor:
    return data[place.begin : place.begin + place.size].view(place.dtype).view(place.shape)
