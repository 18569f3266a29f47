"""Last layers and initialization of the CIFAR networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.base import Outputs


def classify(
    features: Sequence[Tensor], pre_activations: Sequence[Tensor], last: Tensor, classifier: nn.Module
) -> Outputs:
    """The outputs of a classifier: `last` [N, D, H, W], the `last_map`, is pooled over space and classified."""
    pooled = F.adaptive_avg_pool2d(last, 1).flatten(1)
    return Outputs(
        logits=classifier(pooled),
        features=tuple(features),
        pooled=pooled,
        extra={"pre_activations": tuple(pre_activations), "last_map": last},
    )


def initialize(network: nn.Module, linear_std: float | None = None) -> None:
    """He initialization: Kaiming normal over fan-out for every convolution, whose biases start at zero.

    Args:
        network: BatchNorms keep scale 1 and shift 0.
        linear_std: standard deviation of linear weights, with zero biases; None leaves PyTorch's default.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std)
            nn.init.zeros_(module.bias)
