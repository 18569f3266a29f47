"""BatchNorm over the whole batch where several processes share it (`sync_batchnorm` of a recipe)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import SpecError


def synchronize(module: nn.Module) -> None:
    """Let every BatchNorm layer of a module compute its statistics over the shards of all processes.

    Layers stay the same objects, which others refer to and have hooks on: only their class changes.

    Raises:
        SpecError: a layer is of a kind of its own, whose forward is not known.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.SyncBatchNorm | SyncBatchNormOnCPU) or not isinstance(layer, _BatchNorm):
            continue
        if type(layer) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise SpecError(
                f"sync_batchnorm: {name} is a {type(layer).__name__}, which cannot be synchronized; choose another "
                "network, or --set sync_batchnorm=false"
            )
        on_cpu = next(layer.parameters(), torch.empty(0)).device.type == "cpu"
        layer.__class__ = SyncBatchNormOnCPU if on_cpu else nn.SyncBatchNorm
        if not on_cpu:
            layer.process_group = distributed.group.WORLD  # type: ignore[assignment]


class SyncBatchNormOnCPU(_BatchNorm):
    """What torch's `SyncBatchNorm` computes, on CPUs, which that refuses."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Any number of dimensions will do."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [N, C, ...] in train mode by the statistics of all processes' shards."""
        if not self.training and self.running_mean is not None:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        count = x.numel() // x.shape[1] * distributed.get_world_size()  # shards are of one size
        mean = _sum(x) / count
        centered = x - _as(x, mean)
        variance = _sum(centered**2) / count
        self._keep(mean, variance * (count / max(1, count - 1)))
        normalized = centered * _as(x, (variance + self.eps).rsqrt())
        return normalized if self.weight is None else normalized * _as(x, self.weight) + _as(x, self.bias)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, if there are any."""
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _AllSum(torch.autograd.Function):
    """The sum of a tensor over all processes. Each of them depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


def _sum(x: Tensor) -> Tensor:
    """By channel, over all processes."""
    total: Tensor = _AllSum.apply(x.sum([0, *range(2, x.ndim)]))
    return total


def _as(x: Tensor, values: Tensor) -> Tensor:
    """Values by channel in the shape of x."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
