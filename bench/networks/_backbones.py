"""Backbones with feature pyramids: torchvision's ResNets, and small ones for two CPU cores."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from . import _torchvision_weights as weights

RESNETS = {"r50": "resnet50", "r101": "resnet101", "x101": "resnext101_64x4d"}


class ResNetPyramid(nn.Module):
    """A torchvision ResNet with a 256-channel FPN.

    Args:
        depth: "r50", "r101" or "x101" (ResNeXt-101 64x4d).
        init: "imagenet" loads torchvision's ImageNet weights, freezes the stem and the first stage and keeps every
            BatchNorm at its stored statistics (scale and shift train), as mmdetection does; "random" starts from
            scratch and trains everything.
        top: the coarsest levels: "c5" gives P3 to P7 with P6 from the backbone's last map (RetinaNet), "p5" the same
            with P6 from P5 (FCOS), "pool" P2 to P5 and a max-pooled P6 (Faster R-CNN), as in the papers' configs.
    """

    def __init__(self, depth: str, init: str, top: str) -> None:
        super().__init__()
        body = getattr(resnet, RESNETS[depth])(weights=None)
        self.fixed_statistics = init == "imagenet"
        if self.fixed_statistics:
            weights.load_imagenet(body, RESNETS[depth])
        self.pyramid = _resnet_fpn_extractor(
            body,
            trainable_layers=3 if self.fixed_statistics else 5,
            returned_layers=[1, 2, 3, 4] if top == "pool" else [2, 3, 4],
            extra_blocks=LastLevelMaxPool() if top == "pool" else LastLevelP6P7(2048 if top == "c5" else 256, 256),
        )
        self.out_channels = 256
        self.strides = (4, 8, 16, 32, 64) if top == "pool" else (8, 16, 32, 64, 128)

    def train(self, mode: bool = True) -> ResNetPyramid:
        super().train(mode)
        if self.fixed_statistics:
            for module in self.pyramid.body.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return cast(dict[str, Tensor], self.pyramid(x))


class Block(nn.Module):
    """Two 3x3 convolutions with a residual path; the first may halve the map."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return cast(Tensor, self.relu(self.norm2(self.conv2(y)) + self.skip(x)))


class MiniPyramid(nn.Module):
    """A small residual network with an FPN over strides 8, 16 and 32, for 128-pixel images on a CPU.

    Its stem reads patches of 4x4 pixels: maps of half the image's size would be a fifth of a step.

    Args:
        widths: channels at strides 4, 8, 16 and 32.
        blocks: residual blocks in each of these stages.
        out_channels: width of the pyramid.
    """

    def __init__(self, widths: tuple[int, int, int, int], blocks: tuple[int, int, int, int], out_channels: int) -> None:
        super().__init__()
        stem = widths[0]
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 4, 4, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True))
        stages: list[nn.Module] = []
        inputs = stem
        for width, depth in zip(widths, blocks, strict=True):
            stages.append(
                nn.Sequential(
                    Block(inputs, width, 2 if stages else 1), *(Block(width, width, 1) for _ in range(depth - 1))
                )
            )
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.fpn = FeaturePyramidNetwork(list(widths[1:]), out_channels)
        self.out_channels = out_channels
        self.strides = (8, 16, 32)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stages[0](self.stem(x))
        maps = OrderedDict()
        for i, stage in enumerate(self.stages[1:]):
            x = stage(x)
            maps[str(i)] = x
        return cast(dict[str, Tensor], self.fpn(maps))


Pyramid = ResNetPyramid | MiniPyramid
