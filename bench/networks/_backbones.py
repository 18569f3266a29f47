"""Backbones with feature pyramids: torchvision's ResNets and MobileNetV3, and small ones for two CPU cores."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection.backbone_utils import BackboneWithFPN, _mobilenet_extractor, _resnet_fpn_extractor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from . import _torchvision_weights as weights

BACKBONES = {
    "r18": "resnet18",
    "r50": "resnet50",
    "r101": "resnet101",
    "x101": "resnext101_64x4d",
    "mobilenet_v3": "mobilenet_v3_large",
}
"""torchvision's name of each backbone."""

LAST_CHANNELS = {"r18": 512, "mobilenet_v3": 960}
"""Channels of a backbone's last map; 2048 of the others."""


class ImageNetPyramid(nn.Module):
    """A torchvision classifier's backbone with a 256-channel FPN.

    Args:
        backbone: one of `BACKBONES`.
        init: "imagenet" loads torchvision's ImageNet weights, freezes the stem and the first stage (all up to stride
            4) and keeps every BatchNorm at its stored statistics (scale and shift train), as mmdetection does;
            "random" starts from scratch and trains everything.
        top: the coarsest levels: "c5" gives P3 to P7 with P6 from the backbone's last map (RetinaNet), "p5" the same
            with P6 from P5 (FCOS), "pool" P2 to P5 and a max-pooled P6 (Faster R-CNN), as in the papers' configs.
    """

    def __init__(self, backbone: str, init: str, top: str) -> None:
        super().__init__()
        body = get_model(BACKBONES[backbone], weights=None)
        self.fixed_statistics = init == "imagenet"
        if self.fixed_statistics:
            weights.load_imagenet(body, BACKBONES[backbone])
        last = LAST_CHANNELS.get(backbone, 2048) if top == "c5" else 256
        extra = LastLevelMaxPool() if top == "pool" else LastLevelP6P7(last, 256)
        # torchvision counts a MobileNet's stages from its stem, and the last convolution as one more, at stride 32.
        stages = ([1, 2, 3, 5] if backbone == "mobilenet_v3" else [1, 2, 3, 4])[0 if top == "pool" else 1 :]
        if backbone == "mobilenet_v3":
            made = _mobilenet_extractor(body, True, 4 if self.fixed_statistics else 6, stages, extra)
        else:
            made = _resnet_fpn_extractor(body, 3 if self.fixed_statistics else 5, stages, extra)
        self.pyramid = cast(BackboneWithFPN, made)
        self.out_channels = 256
        self.strides = (4, 8, 16, 32, 64) if top == "pool" else (8, 16, 32, 64, 128)

    def train(self, mode: bool = True) -> ImageNetPyramid:
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


Pyramid = ImageNetPyramid | MiniPyramid
