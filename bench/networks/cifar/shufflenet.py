"""ShuffleNet V1 (Zhang et al., CVPR 2018) and V2 (Ma et al., ECCV 2018) as RepDistiller has them.

RepDistiller: `models/ShuffleNetv1.py` (three groups) and `models/ShuffleNetv2.py` (widths 1 and 1.5). Both have a 1x1
stem of 24 channels, no max-pooling, and three stages that halve the map. All weights have PyTorch's initialization.

`info.norms` is empty, as RepDistiller names no BatchNorms of these networks for a margin: channels of their maps bypass
the convolutions, and no BatchNorm's statistics describe those.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.base import NetworkInfo, Outputs

from ..base import Network
from .common import classify

STEM = 24


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle of [N, C, H, W]: channel i of group g goes to i * groups + g. Keeps channels-last maps so."""
    n, c, h, w = x.shape
    if x.is_contiguous(memory_format=torch.channels_last):
        grouped = x.permute(0, 2, 3, 1).view(n, h, w, groups, c // groups)
        return grouped.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).flatten(1, 2)


class GroupedBlock(nn.Module):
    """V1: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, up to its last ReLU, which the network applies.

    With stride 2 the block's input, average-pooled, is concatenated, else it is added. RepDistiller keeps a ReLU after
    the depthwise convolution, which the paper leaves out.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        self.groups = 1 if inputs == STEM else groups
        branch = outputs - inputs if stride == 2 else outputs
        hidden = branch // 4
        self.conv1 = nn.Conv2d(inputs, hidden, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, branch, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = shuffle(y, self.groups) if self.groups > 1 else y
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1) if self.stride == 2 else y + x


class ShuffleNetV1(Network):
    """`pre_activations` are the stages' sums of branch and shortcut; their ReLU is the feature."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                GroupedBlock(inputs, width, 2, groups=3),
                *(GroupedBlock(width, width, 1, groups=3) for _ in range(depth - 1)),
            )
            for inputs, width, depth in ((STEM, 240, 4), (240, 480, 8), (480, 960, 4))
        )
        self.linear = nn.Linear(960, num_classes)
        self.info = NetworkInfo((STEM, 240, 480, 960), (1, 2, 4, 8), 960, self.linear)

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        features, before = [x], []
        for stage in (self.layer1, self.layer2, self.layer3):
            *blocks, last = stage
            for block in blocks:
                x = F.relu(block(x), inplace=True)
            before.append(last(x))
            x = F.relu(before[-1])  # not in place: `before` is returned
            features.append(x)
        return classify(features, before, x, self.linear)


class DownBlock(nn.Module):
    """V2, stride 2: two branches from one input, concatenated and shuffled."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return shuffle(F.relu(torch.cat([left, right], 1), inplace=True), 2)


class SplitBlock(nn.Module):
    """V2, stride 1: half of the channels pass, half are convolved; concatenated and shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, channels, H, W] -> the half that passes, and the convolved half before its ReLU."""
        kept, y = x.chunk(2, 1)
        y = F.relu(self.bn1(self.conv1(y)), inplace=True)
        return kept, self.bn3(self.conv3(self.bn2(self.conv2(y))))

    def forward(self, x: Tensor) -> Tensor:
        kept, y = self.halves(x)
        return shuffle(torch.cat([kept, F.relu(y, inplace=True)], 1), 2)


class ShuffleNetV2(Network):
    """`pre_activations` are the last blocks' concatenations, in the order they have before the shuffle.

    As RepDistiller returns them: the half that bypasses the convolutions and is non-negative already, then the
    convolved half before its ReLU. The feature is their ReLU with its channels shuffled.

    Args:
        num_classes: K.
        widths: channels of the stages.
    """

    def __init__(self, num_classes: int, widths: tuple[int, int, int] = (116, 232, 464)) -> None:
        super().__init__()
        self.num_classes = num_classes
        pooled = 1024
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(DownBlock(inputs, width), *(SplitBlock(width) for _ in range(depth - 1)))
            for inputs, width, depth in zip((STEM, *widths[:-1]), widths, (4, 8, 4), strict=True)
        )
        self.conv2 = nn.Conv2d(widths[-1], pooled, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(pooled)
        self.linear = nn.Linear(pooled, num_classes)
        self.info = NetworkInfo((STEM, *widths), (1, 2, 4, 8), pooled, self.linear)

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        features, before = [x], []
        for stage in (self.layer1, self.layer2, self.layer3):
            *blocks, last = stage
            for block in blocks:
                x = block(x)
            before.append(torch.cat(cast(SplitBlock, last).halves(x), 1))
            # A second ReLU on the half that passes changes neither values nor gradients, and saves a second `cat`.
            x = shuffle(F.relu(before[-1]), 2)
            features.append(x)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return classify(features, before, x, self.linear)


def build(name: str, num_classes: int) -> ShuffleNetV1 | ShuffleNetV2:
    """`cifar_shufflenet_v1`, `cifar_shufflenet_v2` or, at width 1.5, `cifar_shufflenet_v2_x1_5`."""
    if name.endswith("_v1"):
        return ShuffleNetV1(num_classes)
    return ShuffleNetV2(num_classes, (176, 352, 704)) if name.endswith("_x1_5") else ShuffleNetV2(num_classes)
