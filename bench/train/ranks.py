"""The processes that train one job together, one for each GPU: what they add up, and what they agree on.

Each takes its shard of every batch. In a process that trains alone nothing here waits for anybody, or changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.nn.modules.batchnorm import _BatchNorm

from ..tasks.shard import Shard

Value = TypeVar("Value")

JOB, LEASES = "job", "leases"
"""Keys in the store by which the processes of a job find each other: the job, and the nonce of its leases."""

PATIENCE = timedelta(days=1)
"""For each other: a process that has ended is noticed by the one that has started them."""


def join(store: Store, rank: int, world_size: int) -> None:
    """Become one of the processes of a job; each calls it."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE, store=store, rank=rank, world_size=world_size)


def rank() -> int:
    """Number of this process, from 0. The first one writes all files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Number of the processes of the job."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def shard() -> Shard:
    """The part of each batch that this process takes."""
    return Shard(rank(), world_size())


def any_of(value: bool) -> bool:
    """Whether it is true in any process."""
    if world_size() == 1:
        return value
    flag = torch.tensor(int(value))
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def first_says(value: bool) -> bool:
    """As it is in the first process: for what depends on its clock."""
    return of_first(lambda: value)


def of_first(function: Callable[[], Value]) -> Value:
    """What a function returns in the first process, which alone calls it while the others wait."""
    if world_size() == 1:
        return function()
    box: list[Any] = [function() if rank() == 0 else None]
    distributed.broadcast_object_list(box, device=torch.device("cpu"))
    result: Value = box[0]
    return result


def of_all(value: Value) -> list[Value]:
    """What each process has, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def mean(values: Tensor) -> Tensor:
    """The mean over all processes, whose shards are of one size."""
    if world_size() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / world_size()


class UnequalGradientsError(RuntimeError):
    """Processes of one job have gradients of different parameters."""


class GradientMean:
    """Makes every gradient the mean over all processes, with one reduction, and BatchNorm statistics the first one's.

    The statistics are taken as by torch's `DistributedDataParallel`: each process normalizes with those of its shard,
    unless they are synchronized, and only the first one's running means are kept.

    Args:
        parameters: of the networks and the method.
        modules: whose BatchNorm layers count.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], modules: Sequence[nn.Module]) -> None:
        self.parameters = list(parameters)
        layers = [layer for module in modules for layer in module.modules() if isinstance(layer, _BatchNorm)]
        named = [getattr(layer, name) for layer in layers for name in ("running_mean", "running_var")]
        self.statistics: list[Tensor] = [values for values in named if values is not None]
        self._patterns: dict[tuple[bool, ...], Tensor] = {}  # which parameters have a gradient, on the device
        self._unequal: Tensor | None = None

    @torch.no_grad()
    def reduce(self) -> None:
        """Reduce the gradients that are there. `check` tells whether all processes had the same ones."""
        if world_size() == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        kept = [values if rank() == 0 else torch.zeros_like(values) for values in self.statistics]
        pattern = self._pattern()
        flat = torch.cat([*(values.flatten() for values in gradients), *(values.flatten() for values in kept), pattern])
        distributed.all_reduce(flat)
        *parts, counts = flat.split([values.numel() for values in (*gradients, *kept)] + [len(pattern)])
        for parameter, part in zip(self.parameters, parts, strict=False):
            if parameter.grad is not None:
                parameter.grad.copy_(part.view_as(parameter).div_(world_size()))
        for values, part in zip(self.statistics, parts[len(gradients) :], strict=True):
            values.copy_(part.view_as(values))
        unequal = (counts - world_size() * pattern).abs().sum()
        self._unequal = unequal if self._unequal is None else self._unequal + unequal

    def check(self) -> None:
        """Check the reductions since the last call; waits for the device.

        Raises:
            UnequalGradientsError: a parameter had a gradient in some processes alone.
        """
        if self._unequal is not None and self._unequal.item():
            raise UnequalGradientsError(
                "a parameter had a gradient in some processes alone, so that its mean is not known: what a method or "
                "network computes must not depend on the images of a batch; train it on one GPU"
            )
        self._unequal = None

    def _pattern(self) -> Tensor:
        """1 for each parameter with a gradient and 0 for others; kept, because the host waits for a copy."""
        pattern = tuple(parameter.grad is not None for parameter in self.parameters)
        if pattern not in self._patterns:
            device = self.parameters[0].device
            self._patterns[pattern] = torch.tensor(pattern, dtype=torch.float32, device=device)
        return self._patterns[pattern]
