"""MobileNetV2 at half width (Sandler et al., CVPR 2018) as RepDistiller's `models/mobilenetv2.py` has it."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from kdbench.methods.base import NetworkInfo, Outputs

from ..base import Network
from .common import classify, initialize

GROUPS = ((8, 1, 1), (12, 2, 1), (16, 3, 2), (32, 4, 2), (48, 3, 1), (80, 3, 2), (160, 1, 1))
"""Channels, blocks and stride of each group of blocks, at half of the paper's channels."""
STAGE_ENDS = (1, 2, 4, 6)
"""The groups whose outputs are `features`."""


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel by a 3x3 convolution, and narrow again without a ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *_convolution(inputs, hidden, 1),
            *_convolution(hidden, hidden, 3, stride, groups=hidden),
            *_convolution(hidden, outputs, 1)[:-1],
        )

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.conv(x))
        return x + y if self.residual else y


class MobileNetV2(Network):
    """RepDistiller's `mobile_half(num_classes)`, 0.8 million parameters at K=100; the stem has stride 2.

    Its stages end linearly, without a ReLU: `pre_activations` are the features without the stem, as RepDistiller's
    `preact=True` changes nothing here, and `info.norms` the BatchNorms that end their last blocks' convolutions.

    Convolutions start Kaiming normal over fan-out, the linear layer Normal(0, .01) with a zero bias.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        stem, pooled = 16, 1280
        self.conv1 = nn.Sequential(*_convolution(3, stem, 3, 2))
        self.blocks = nn.ModuleList()
        inputs = stem
        for outputs, depth, stride in GROUPS:
            expansion = 6 if len(self.blocks) else 1
            group = [InvertedResidual(inputs, outputs, stride, expansion)]
            group += [InvertedResidual(outputs, outputs, 1, expansion) for _ in range(depth - 1)]
            self.blocks.append(nn.Sequential(*group))
            inputs = outputs
        self.conv2 = nn.Sequential(*_convolution(inputs, pooled, 1))
        self.classifier = nn.Sequential(nn.Linear(pooled, num_classes))
        initialize(self, linear_std=0.01)
        self.info = NetworkInfo(
            channels=(stem, *(GROUPS[i][0] for i in STAGE_ENDS)),
            strides=(2, 2, 4, 8, 16),
            pooled_dim=pooled,
            classifier=self.classifier[0],
            norms=tuple(cast(Any, self.blocks[i])[-1].conv[-1] for i in STAGE_ENDS),
        )

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        x = self.conv1(x)
        features = [x]
        for i, group in enumerate(self.blocks):
            x = group(x)
            if i in STAGE_ENDS:
                features.append(x)
        return classify(features, features[1:], self.conv2(x), self.classifier)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def build(name: str, num_classes: int) -> MobileNetV2:
    """`cifar_mobilenet_v2`."""
    return MobileNetV2(num_classes)
