"""The running mean of a network's weights, which some recipes evaluate in place of the network."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class RunningMean(AveragedModel):
    """The exponential mean of weights and buffers; it begins at the initial ones.

    The update is torch's, but for the number of updates: torch copies it to the device in every step, and waits.

    Args:
        network: on its device.
        decay: of the mean.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.n_averaged.fill_(1)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the mean towards the weights and buffers of the network."""
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        means = chain(self.module.parameters(), self.module.buffers())
        for mean, value in zip(means, chain(model.parameters(), model.buffers()), strict=True):
            group = groups.setdefault(mean.dtype, ([], []))
            group[0].append(mean.detach())
            group[1].append(value.detach())
        assert self.multi_avg_fn is not None
        for means_of_dtype, values in groups.values():
            self.multi_avg_fn(means_of_dtype, values, self.n_averaged)
        self.n_averaged += 1
