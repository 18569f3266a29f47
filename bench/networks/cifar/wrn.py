"""Wide ResNets (Zagoruyko and Komodakis, BMVC 2016) as RepDistiller's `models/wrn.py` has them, without dropout."""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.base import NetworkInfo, Outputs

from ..base import Network
from .common import classify, initialize


class Block(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions; a block that changes width projects the activated map."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, inputs, H, W] -> the block's output, and its input after the first BatchNorm."""
        normed = self.bn1(x)
        active = F.relu(normed)  # not in place: `normed` is returned
        y = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return y + (x if self.convShortcut is None else self.convShortcut(active)), normed


class Stage(nn.Module):
    """A sequence of blocks, named `layer` as in RepDistiller."""

    def __init__(self, inputs: int, outputs: int, depth: int, stride: int) -> None:
        super().__init__()
        first = Block(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, inputs, H, W] -> the stage's output, and its input after the first block's first BatchNorm."""
        first, *blocks = self.layer
        x, normed = first(x)
        for block in blocks:
            x, _ = block(x)
        return x, normed


class WideResNet(Network):
    """WRN-depth-widen.

    Features are sums before any BatchNorm or ReLU (the stem is the first convolution alone). The input of a ReLU is a
    feature after the next BatchNorm, so `pre_activations` are, as in RepDistiller, the first two stages after the
    first BatchNorm of the next stage and the last stage after the network's, and these BatchNorms are `info.norms`.
    They are taken from the forward pass; RepDistiller normalizes a second time, which in training also updates the
    running statistics twice.

    Convolutions start Kaiming normal over fan-out, the linear layer with PyTorch's weights and a zero bias.
    """

    def __init__(self, depth: int, widen: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = (16, 16 * widen, 32 * widen, 64 * widen)
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.block1 = Stage(widths[0], widths[1], blocks, 1)
        self.block2 = Stage(widths[1], widths[2], blocks, 2)
        self.block3 = Stage(widths[2], widths[3], blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        initialize(self)
        nn.init.zeros_(self.fc.bias)
        norms = (*(cast(Block, stage.layer[0]).bn1 for stage in (self.block2, self.block3)), self.bn1)
        self.info = NetworkInfo(widths, (1, 1, 2, 4), widths[3], self.fc, norms, final_norm=self.bn1)

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        stem = self.conv1(x)
        first, _ = self.block1(stem)
        second, first_normed = self.block2(first)
        third, second_normed = self.block3(second)
        third_normed = self.bn1(third)
        before = (first_normed, second_normed, third_normed)
        return classify((stem, first, second, third), before, F.relu(third_normed), self.fc)


def build(name: str, num_classes: int) -> WideResNet:
    """ "wrn_DEPTH_WIDEN"."""
    _, depth, widen = name.split("_")
    return WideResNet(int(depth), int(widen), num_classes)
