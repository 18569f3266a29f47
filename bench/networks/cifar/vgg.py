"""VGG with BatchNorm (Simonyan and Zisserman, ICLR 2015) as RepDistiller's `models/vgg.py` has it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.base import NetworkInfo, Outputs

from ..base import Network
from .common import classify, initialize

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


class VGG(Network):
    """Five blocks of 3x3 convolutions with biases; one linear layer.

    The first block is the stem. Maps are halved between blocks, but between the last two only where
    images are 64 pixels high, as in RepDistiller: at 32x32 both have stride 8. `pre_activations` are the blocks'
    last BatchNorm outputs, whose ReLU is the feature; those BatchNorms are `info.norms`.

    Convolutions start Kaiming normal over fan-out with zero biases, the linear layer Normal(0, .01) with a zero bias.
    """

    def __init__(self, convolutions: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        blocks = [
            _block(inputs, outputs, depth)
            for (inputs, outputs), depth in zip(pairwise((3, *WIDTHS)), convolutions, strict=True)
        ]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        initialize(self, linear_std=0.01)
        norms = tuple(block[-1] for block in blocks[1:])
        self.info = NetworkInfo(WIDTHS, (1, 2, 4, 8, 8), WIDTHS[-1], self.classifier, norms)

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        large = x.shape[2] == 64
        x = F.relu(self.block0(x), inplace=True)
        features, before = [x], []
        for block in (self.block1, self.block2, self.block3, self.block4):
            if block is not self.block4 or large:
                x = F.max_pool2d(x, 2)
            before.append(block(x))
            x = F.relu(before[-1])  # not in place: `before` is returned
            features.append(x)
        return classify(features, before, x, self.classifier)


def _block(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    """`depth` times convolution, BatchNorm and ReLU, without the last ReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        inputs = outputs
    return nn.Sequential(*layers[:-1])


def build(name: str, num_classes: int) -> VGG:
    """One of `CONVOLUTIONS`."""
    return VGG(CONVOLUTIONS[name], num_classes)
