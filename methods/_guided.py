"""Guided modules of EKD: a small head on every stage of a network except the last."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from .base import NetworkInfo, Outputs


def bottleneck(inputs: int, outputs: int) -> nn.Sequential:
    """[N, inputs, H, W] -> [N, outputs, H/2, W/2]: 1x1 to half the width, 3x3 of stride 2, 1x1, each with BN, ReLU."""
    width = max(inputs // 2, 1)
    shapes = ((inputs, width, 1, 1), (width, width, 3, 2), (width, outputs, 1, 1))
    layers: list[nn.Module] = []
    for c_in, c_out, kernel, stride in shapes:
        conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class GuidedModule(nn.Module):
    """[N, C, H, W] of one stage -> guided feature [N, dim] and guided logits [N, K].

    Bottlenecks to the size of the last stage, each to the width of the next stage (of the last stage if there is no
    further one), then the spatial mean, a linear layer to the feature and a linear layer to the logits.

    Args:
        channels: widths of this stage and of all later ones.
        halvings: number of times that the stride doubles from this stage to the last.
        dim: D.
        num_classes: K.
    """

    def __init__(self, channels: tuple[int, ...], halvings: int, dim: int, num_classes: int) -> None:
        super().__init__()
        widths = [channels[min(step, len(channels) - 1)] for step in range(halvings + 1)]
        self.shrink = nn.Sequential(*(bottleneck(a, b) for a, b in itertools.pairwise(widths)))
        self.embed = nn.Linear(widths[-1], dim)
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, stage: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.embed(self.shrink(stage).mean(dim=(2, 3)))
        return feature, self.classify(feature)


class GuidedModules(nn.Module):
    """The guided modules of one network: one for each stage except the last, whose feature is the pooled feature.

    Args:
        info: the network's shapes, with strides and pooled_dim.
        dim: D of the guided features; a linear layer maps a pooled feature of another length to D.
        num_classes: K.
    """

    def __init__(self, info: NetworkInfo, dim: int, num_classes: int) -> None:
        super().__init__()
        assert info.pooled_dim is not None
        strides = info.strides
        self.stages = nn.ModuleList(
            GuidedModule(info.channels[i:], _halvings(strides[i], strides[-1]), dim, num_classes)
            for i in range(1, len(info.channels) - 1)
        )
        self.trunk = nn.Identity() if info.pooled_dim == dim else nn.Linear(info.pooled_dim, dim)

    def forward(self, outputs: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """Guided features of all stages, [N, D] each, and guided logits of all stages except the last, [N, K] each."""
        pairs = [module(feature) for module, feature in zip(self.stages, outputs.features[1:-1], strict=True)]
        return [*(feature for feature, _ in pairs), self.trunk(outputs.pooled)], [logits for _, logits in pairs]


def _halvings(stride: int, last: int) -> int:
    count = 0
    while stride < last:
        stride, count = 2 * stride, count + 1
    return count
