"""ImageNet classifiers whose `features` are the stem and four stages.

Each keeps the library's model in `model`, under the library's state-dict names, and calls its modules; the logits are
those of the library's forward. `targets` are not used: the task computes its loss from the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from kdbench.methods.base import NetworkInfo, Outputs

from ..errors import SpecError
from ._mobilenet_v1 import STAGES, MobileNetV1
from .base import Network

TIMM = {
    "resnet50_sb": "resnet50",
    "efficientnet_b0": "tf_efficientnet_b0",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_l": "swin_large_patch4_window7_224",
}


class ResNet(Network):
    """torchvision's or timm's ResNet; the stem's feature is taken after its max-pooling, at stride 4.

    `pre_activations` are the sums of shortcut and residual branch that end the stages, `info.norms` the BatchNorms
    that end those branches.
    """

    def __init__(self, model: Any, num_classes: int) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        lasts = [stage[-1] for stage in self._stages()]
        norms = tuple(getattr(block, f"bn{_depth(block)}") for block in lasts)
        self.info = NetworkInfo(
            channels=(model.conv1.out_channels, *(norm.num_features for norm in norms)),
            strides=(4, 4, 8, 16, 32),
            pooled_dim=model.fc.in_features,
            classifier=model.fc,
            norms=norms,
        )

    def _stages(self) -> list[Any]:
        return [getattr(self.model, f"layer{i}") for i in (1, 2, 3, 4)]

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        model = self.model
        x = model.maxpool(F.relu(model.bn1(model.conv1(x)), inplace=True))
        features, before = [x], []
        for *blocks, last in self._stages():
            for block in blocks:
                x = block(x)
            before.append(_until_last_relu(last, x))
            x = F.relu(before[-1])  # not in place, as the block does it: `before` is returned
            features.append(x)
        return _classified(features, x, _pool(x), model.fc, before)


def _depth(block: Any) -> int:
    return 3 if hasattr(block, "conv3") else 2


def _until_last_relu(block: Any, x: Tensor) -> Tensor:
    """A basic or bottleneck block of either library on [N, C, H, W], without the ReLU at its end."""
    y, depth = x, _depth(block)
    for i in range(1, depth + 1):
        y = getattr(block, f"bn{i}")(getattr(block, f"conv{i}")(y))
        if i < depth:
            y = F.relu(y, inplace=True)
    shortcut: Tensor = x if block.downsample is None else block.downsample(x)
    return y + shortcut


def _classified(
    features: Sequence[Tensor],
    last_map: Tensor,
    pooled: Tensor,
    classifier: nn.Module,
    before: Sequence[Tensor] = (),
) -> Outputs:
    extra: dict[str, Tensor | tuple[Tensor, ...]] = {"last_map": last_map}
    if before:
        extra["pre_activations"] = tuple(before)
    return Outputs(logits=classifier(pooled), features=tuple(features), pooled=pooled, extra=extra)


def _pool(x: Tensor) -> Tensor:
    """[N, D, H, W] -> its mean over space, [N, D]."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


class MobileNetV1Network(Network):
    """MobileNetV1; a stage ends before the map is halved next.

    `pre_activations` are the stages before the ReLU of their last convolution.
    """

    def __init__(self, model: MobileNetV1, num_classes: int) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        ends = [1]
        for stage in STAGES:
            ends.append(ends[-1] + len(stage))
        self.bounds = list(pairwise(ends))
        layers: Any = model.model
        norms = tuple(layers[end - 1][-2] for end in ends[1:])
        self.info = NetworkInfo(
            channels=(32, *(norm.num_features for norm in norms)),
            strides=(2, 4, 8, 16, 32),
            pooled_dim=model.fc.in_features,
            classifier=model.fc,
            norms=norms,
        )

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        layers = self.model.model
        x = layers[0](x)
        features, before = [x], []
        for start, end in self.bounds:
            last: Any = layers[end - 1]
            before.append(last[:-1](layers[start : end - 1](x)))
            x = F.relu(before[-1])
            features.append(x)
        return _classified(features, x, _pool(x), self.model.fc, before)


class MobileNetV2Network(Network):
    """torchvision's MobileNetV2 with its dropout of 0.2; the stages are its linear bottlenecks, 320 channels the last.

    `pooled` is the mean of the 1280-channel map after them, before dropout.
    """

    def __init__(self, model: Any, num_classes: int) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        self.bounds = list(pairwise((1, 4, 7, 14, 18)))  # the bottlenecks with 16 and 24, 32, 64 and 96, 160 and 320
        self.info = NetworkInfo(
            channels=(32, 24, 32, 96, 320),
            strides=(2, 4, 8, 16, 32),
            pooled_dim=model.last_channel,
            classifier=model.classifier[1],
        )

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        layers = self.model.features
        x = layers[0](x)
        features = [x]
        for start, end in self.bounds:
            x = layers[start:end](x)
            features.append(x)
        x = layers[18](x)
        return _classified(features, x, _pool(x), self.model.classifier)


class EfficientNetB0(Network):
    """timm's EfficientNet-B0; the stages are its linear bottlenecks.

    `pooled` is the mean of the 1280-channel map after them, before dropout.
    """

    def __init__(self, model: Any, num_classes: int) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        self.bounds = list(pairwise((0, 2, 3, 5, 7)))
        self.info = NetworkInfo(
            channels=(32, 24, 40, 112, 320),
            strides=(2, 4, 8, 16, 32),
            pooled_dim=model.num_features,
            classifier=model.classifier,
        )

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        model = self.model
        x = model.bn1(model.conv_stem(x))
        features = [x]
        for start, end in self.bounds:
            x = model.blocks[start:end](x)
            features.append(x)
        x = model.bn2(model.conv_head(x))
        return _classified(features, x, model.global_pool(x), model.classifier)


class Swin(Network):
    """timm's Swin at 224 pixels; `features` are tokens as maps, the stem is the patch embedding.

    The last feature is the last stage's output, before the final LayerNorm; `pooled` is after it.
    """

    def __init__(self, model: Any, num_classes: int) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        width = model.embed_dim
        self.info = NetworkInfo(
            channels=(width, width, 2 * width, 4 * width, 8 * width),
            strides=(4, 4, 8, 16, 32),
            pooled_dim=model.num_features,
            classifier=model.head.fc,
        )

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        """See `Network`.

        Raises:
            SpecError: the images have another size than the windows are made for.
        """
        model = self.model
        height, width = x.shape[-2:]
        if (height, width) != tuple(model.patch_embed.img_size):
            raise SpecError(
                f"this Swin reads images of {'x'.join(map(str, model.patch_embed.img_size))} pixels and was given "
                f"{height}x{width}; set the recipe's image size"
            )
        x = model.patch_embed(x)
        features = [x]
        for stage in model.layers:
            x = stage(x)
            features.append(x)
        x = model.norm(x)
        maps = [tokens.permute(0, 3, 1, 2) for tokens in (*features, x)]
        return _classified(maps[:-1], maps[-1], model.head(x, pre_logits=True), model.head.fc)


def make(name: str, num_classes: int, drop_path: float = 0.2) -> Network:
    """One of `kdbench.networks.imagenet.NAMES` with the library's initialization; `drop_path` is for the Swins."""
    if name == "mobilenet_v1":
        return MobileNetV1Network(MobileNetV1(num_classes), num_classes)
    if name not in TIMM:
        model = models.get_model(name, weights=None, num_classes=num_classes)
        return (MobileNetV2Network if name == "mobilenet_v2" else ResNet)(model, num_classes)
    import timm

    rates: dict[str, Any] = {"drop_path_rate": drop_path} if name.startswith("swin") else {}
    body = timm.create_model(TIMM[name], pretrained=False, num_classes=num_classes, **rates)
    kind: Callable[[Any, int], Network] = {"resnet50_sb": ResNet, "efficientnet_b0": EfficientNetB0}.get(name, Swin)
    return kind(body, num_classes)
