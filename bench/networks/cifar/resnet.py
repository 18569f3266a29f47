"""CIFAR ResNets (He et al., CVPR 2016): RepDistiller's of three and four stages, Adaptive Distillation's of four.

RepDistiller: `models/resnet.py` (resnet8 to resnet110, and the x4 widths) and `models/resnetv2.py` (ResNet50), which
names its projections and its linear layer differently. Adaptive Distillation (arXiv 2110.09674) takes mmcls 0.13's
`ResNet_CIFAR`; its state-dict names here are mmcls's without `backbone.` and `head.`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.base import NetworkInfo, Outputs

from ..base import Network
from .common import classify, initialize


class Block(nn.Module, ABC):
    """A residual block up to its last ReLU, which the network applies.

    Args:
        inputs: channels of the input.
        width: channels inside; the output has `expansion` times as many.
        stride: of the 3x3 convolution that may halve the map.
        projection: the name of the 1x1 convolution on the shortcut, where it is needed.
    """

    expansion: ClassVar[int]

    def __init__(self, inputs: int, width: int, stride: int, projection: str) -> None:
        super().__init__()
        self.build_branch(inputs, width, stride)
        outputs = width * self.expansion
        self.projection = projection if stride > 1 or inputs != outputs else None
        if self.projection is not None:
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            self.add_module(self.projection, shortcut)

    @property
    @abstractmethod
    def last_norm(self) -> nn.BatchNorm2d:
        """The last BatchNorm of the residual branch."""

    @abstractmethod
    def build_branch(self, inputs: int, width: int, stride: int) -> None: ...

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, width * expansion, H / stride, W / stride], with no ReLU at its end."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.projection is None else getattr(self, self.projection)(x)
        return self.branch(x) + cast(Tensor, shortcut)


class BasicBlock(Block):
    """Two 3x3 convolutions."""

    expansion = 1

    def build_branch(self, inputs: int, width: int, stride: int) -> None:
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return cast(Tensor, self.bn2(self.conv2(x)))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions; the 3x3 convolution has the stride."""

    expansion = 4

    def build_branch(self, inputs: int, width: int, stride: int) -> None:
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return cast(Tensor, self.bn3(self.conv3(x)))


class ResNet(Network):
    """A 3x3 stem of stride 1 without max-pooling, and stages that halve the map, all but the first.

    `pre_activations` are the stages' sums of residual branch and shortcut; their ReLU is the feature. `info.norms`
    are the BatchNorms that end the last residual branch of each stage. Convolutions start Kaiming normal over
    fan-out, the linear layer as PyTorch does.

    Args:
        block: the class of the residual blocks.
        blocks: their number in each stage.
        stem: channels of the stem.
        widths: of each stage's blocks.
        num_classes: K.
        projection: the name of a block's 1x1 shortcut.
        linear: the name of the linear layer.
    """

    def __init__(
        self,
        block: type[Block],
        blocks: tuple[int, ...],
        stem: int,
        widths: tuple[int, ...],
        num_classes: int,
        projection: str = "downsample",
        linear: str = "fc",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.stages = tuple(f"layer{i + 1}" for i in range(len(blocks)))
        inputs, norms = stem, []
        for name, depth, width in zip(self.stages, blocks, widths, strict=True):
            stage = []
            for i in range(depth):
                stride = 2 if i == 0 and name != "layer1" else 1
                stage.append(block(inputs, width, stride, projection))
                inputs = width * block.expansion
            self.add_module(name, nn.Sequential(*stage))
            norms.append(stage[-1].last_norm)
        self.linear_name = linear
        self.add_module(linear, nn.Linear(inputs, num_classes))
        initialize(self)
        self.info = NetworkInfo(
            channels=(stem, *(width * block.expansion for width in widths)),
            strides=(1, *(2**i for i in range(len(blocks)))),
            pooled_dim=inputs,
            classifier=getattr(self, linear),
            norms=tuple(norms),
        )

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        features, before = [x], []
        for name in self.stages:
            *blocks, last = getattr(self, name)
            for block in blocks:
                x = F.relu(block(x), inplace=True)
            before.append(last(x))
            x = F.relu(before[-1])  # not in place: `before` is returned
            features.append(x)
        return classify(features, before, x, getattr(self, self.linear_name))


def build(name: str, num_classes: int) -> ResNet:
    """One of the ResNets of `kdbench.networks.cifar.NAMES`."""
    if not name.startswith("cifar_"):
        depth = int(name.removeprefix("resnet").removesuffix("x4"))
        stem, *stages = (32, 64, 128, 256) if name.endswith("x4") else (16, 16, 32, 64)
        return ResNet(BasicBlock, ((depth - 2) // 6,) * 3, stem, tuple(stages), num_classes)
    widths = (64, 128, 256, 512)
    block, blocks = (BasicBlock, (2, 2, 2, 2)) if "18" in name else (Bottleneck, (3, 4, 6, 3))
    if name == "cifar_resnet50":
        return ResNet(block, blocks, 64, widths, num_classes, projection="shortcut", linear="linear")
    network = ResNet(block, blocks, 64, widths, num_classes)
    _mmcls_init(network)
    return network


def _mmcls_init(network: ResNet) -> None:
    """mmcls's initialization: zero scale in the last BatchNorm of every branch, linear weights Normal(0, .01)."""
    initialize(network, linear_std=0.01)
    for module in network.modules():
        if isinstance(module, Block):
            nn.init.zeros_(module.last_norm.weight)
