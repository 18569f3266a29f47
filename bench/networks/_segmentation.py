"""CIRKD's segmentation networks from modules of segmentation-models-pytorch (smp), and small ones of the same form.

CIRKD (CVPR 2022, github.com/winycg/CIRKD; read as forked in hunto/DIST_KD@2418f18, which DIST trained) dilates its
encoders to stride 8. DeepLabV3: ASPP with rates 12, 24 and 36 into 256 channels for ResNet-101 and 128 for the others,
dropout 0.5, a 3x3 convolution. PSPNet: bins 1, 2, 3 and 6, a 3x3 convolution into 128 channels. Both: dropout 0.1, the
1x1 classifier, and on a ResNet's third stage an FCN head. MobileNetV2 ends at its 320 channels and has no FCN head.
PSPNet on ResNet-101 is mmsegmentation's, with 512 channels.

A difference: the stem of their ResNets (v1s) is three 3x3 convolutions, here torchvision's 7x7 convolution, for which
there are published weights.
"""

from __future__ import annotations

from typing import Any

from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from kdbench.methods.base import NetworkInfo, Outputs

from ..errors import SpecError
from . import _torchvision_weights as weights
from ._backbones import Block
from .base import Network

STRIDES = (2, 4, 8, 8, 8, 8)


class Segmenter(Network):
    """An encoder, a decoder and a classifier at stride 8.

    `features` are the stem, stages 1 to 4 and the map that the classifier reads. Where there is an auxiliary head, its
    logits are `extra["aux_logits"]` [N, K, h, w], in training and evaluation. State-dict names are those of smp, and
    `auxiliary_head`.

    Args:
        encoder: images [N, 3, H, W] -> the images, the stem and four stages, at `STRIDES`, as smp's encoders return.
        decoder: that list -> [N, channels[5], h, w].
        channels: of the stem, the stages and the decoder.
        num_classes: K.
        auxiliary: whether there is an FCN head on stage 3.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        channels: tuple[int, ...],
        num_classes: int,
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.info = NetworkInfo(channels=channels, strides=STRIDES)
        self.encoder, self.decoder = encoder, decoder
        self.dropout = nn.Dropout(0.1)
        self.segmentation_head = SegmentationHead(channels[5], num_classes, kernel_size=1)
        self.auxiliary_head = FCNHead(channels[3], num_classes) if auxiliary else None

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        """See `Network`.

        Raises:
            SpecError: a training batch of a single image.
        """
        if self.training and len(x) == 1:
            raise SpecError(
                "a segmenter pools whole images before a BatchNorm and cannot train on a batch of 1; "
                "set the recipe's batch_size so that every process sees 2 images or more"
            )
        images, *stages = self.encoder(x)
        head = self.dropout(self.decoder([images, *stages]))
        return Outputs(
            logits=self.segmentation_head(head),
            features=(*stages, head),
            extra={} if self.auxiliary_head is None else {"aux_logits": self.auxiliary_head(stages[3])},
        )


def deeplabv3(architecture: str, num_classes: int, init: str) -> Segmenter:
    """DeepLabV3 (Chen et al., arXiv 1706.05587); arguments as in `encoder_of`."""
    encoder, channels = encoder_of(architecture, init)
    width = 256 if architecture == "resnet101" else 128
    decoder = DeepLabV3Decoder(channels[-1], width, (12, 24, 36), aspp_separable=False, aspp_dropout=0.5)
    return Segmenter(encoder, decoder, (*channels, width), num_classes, auxiliary=architecture != "mobilenet_v2")


def pspnet(architecture: str, num_classes: int, init: str) -> Segmenter:
    """PSPNet (Zhao et al., CVPR 2017) on a ResNet; arguments as in `encoder_of`."""
    encoder, channels = encoder_of(architecture, init)
    inputs, width = channels[-1], channels[-1] // 4
    decoder = PSPDecoder([*channels], out_channels=width, dropout=0.0)
    # smp leaves the BatchNorm of the 1x1 bin out and fuses with a 1x1 convolution.
    decoder.psp.blocks[0].pool[1] = Conv2dReLU(inputs, inputs // 4, kernel_size=1)
    decoder.conv = Conv2dReLU(2 * inputs, width, kernel_size=3, padding=1)
    return Segmenter(encoder, decoder, (*channels, width), num_classes)


def encoder_of(architecture: str, init: str) -> tuple[nn.Module, tuple[int, ...]]:
    """An encoder at stride 8, and the channels of its stem and stages.

    Args:
        architecture: "resnet18", "resnet101" or "mobilenet_v2", whose names torchvision and smp share.
        init: "imagenet" loads torchvision's weights without their classifier, "random" starts from scratch; the whole
            encoder trains either way.

    Raises:
        CheckpointError: weights are needed and neither on this machine nor downloadable.
    """
    encoder = get_encoder(architecture, weights=None, output_stride=8)
    if init == "imagenet":
        weights.load_imagenet(encoder, architecture, without=("fc.", "classifier."))
    for stage, rate in zip(encoder.get_stages().values(), (1, 2), strict=True):
        # The convolution that halved the map keeps the dilation of the stage before; smp gives it the new dilation.
        halving = next(m for m in stage[0].modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
        halving.dilation = halving.padding = (rate, rate)
    channels = tuple(encoder.out_channels[1:])
    if architecture == "mobilenet_v2":
        encoder.features[18] = nn.Identity()  # the expansion to 1280 channels, which only an image classifier reads
        channels = (*channels[:-1], 320)
    return encoder, channels


class MiniEncoder(nn.Module):
    """A small residual network for 128x256 images on a CPU, with the outputs of smp's encoders.

    Args:
        widths: channels of the stem and of four stages; 16 or more, because oneDNN (torch 2.14) breaks the heap in the
            backward of a channels-last 1x1 convolution of stride 2 over fewer, on maps of 60x80 and more.
        blocks: residual blocks in each stage.
    """

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        stem, inputs = widths[0], widths[0]
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True))
        stages = []
        for width, depth, stride in zip(widths[1:], blocks, (2, 2, 1, 1), strict=True):
            first = Block(inputs, width, stride)
            stages.append(nn.Sequential(first, *(Block(width, width, 1) for _ in range(depth - 1))))
            inputs = width
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x, self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


def mini(widths: tuple[int, ...], blocks: tuple[int, ...], head: int, num_classes: int) -> Segmenter:
    """A `MiniEncoder` under an ASPP of `head` channels whose rates fit the 8x16 map of a 64x128 crop."""
    decoder = DeepLabV3Decoder(widths[-1], head, (2, 4, 6), aspp_separable=False, aspp_dropout=0.1)
    return Segmenter(MiniEncoder(widths, blocks), decoder, (*widths, head), num_classes)
