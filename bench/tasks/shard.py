"""The part of each batch, and of the validation set, that one of several processes takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of the equal parts that the images of a batch are divided into, in order.

    A batch whose size is no multiple of the number of parts is padded with its first images, as torch's
    `DistributedSampler` pads an epoch.

    Attributes:
        rank: of the process, from 0.
        world_size: number of processes.
    """

    rank: int = 0
    world_size: int = 1

    def size(self, images: int) -> int:
        """Images of its part of a batch."""
        return -(-images // self.world_size)

    def of(self, batch: Sequence[Item]) -> Sequence[Item]:
        """Its part of a batch."""
        if self.world_size == 1:
            return batch
        return [batch[i % len(batch)] for i in self._range(len(batch))]

    def positions(self, images: int, start: int, device: torch.device) -> slice | Tensor:
        """The places of its part of a batch that begins at `start` and has so many images."""
        part = self._range(images)
        if part.stop <= images:
            return slice(start + part.start, start + part.stop)
        return start + torch.arange(part.start, part.stop, device=device) % images

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Its items where each process takes one in turn; `gathered` puts what became of them back in order."""
        return items[self.rank :: self.world_size]

    def gathered(self, results: Sequence[Item]) -> list[Item]:
        """What all processes have made of their `share` of some items, one each, in the order of the items."""
        if self.world_size == 1:
            return list(results)
        parts: list[Any] = [None] * self.world_size
        distributed.all_gather_object(parts, list(results))
        missing = object()
        return [item for item in chain(*zip_longest(*parts, fillvalue=missing)) if item is not missing]

    def _range(self, images: int) -> range:
        size = self.size(images)
        return range(self.rank * size, (self.rank + 1) * size)


WHOLE = Shard()
"""Of a process that trains alone."""
