"""The running mean of a network's weights is torch's."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdbench.train.running_mean import RunningMean


def test_it_equals_torchs_from_the_second_update_on() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    mean = RunningMean(network, 0.99)
    expected = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    expected.n_averaged.fill_(1)  # torch's first update copies the weights
    for _ in range(5):
        network(torch.randn(2, 3, 8, 8))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        mean.update_parameters(network)
        expected.update_parameters(network)
    values, wanted = mean.state_dict(), expected.state_dict()
    assert values.keys() == wanted.keys()
    assert all(torch.equal(values[name], wanted[name]) for name in wanted)
