"""Networks as modules that take and return tensors alone, as deployment formats need them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.base import Detector, Network
from .detectors import plain_detector

MULTIPLE = 32
"""Heights and widths of a detector's inputs are multiples of this."""

UNTRACEABLE = "its detections are computed by code of its library that cannot be traced"

Shape = tuple[int | str, ...]


class PlainClassifier(nn.Module):
    """Images [N, 3, H, W] -> logits [N, K]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        return self.network.infer(images)


class PlainSegmenter(PlainClassifier):
    """Images [N, 3, H, W] -> logits [N, K, H, W], enlarged to the images' size as evaluation enlarges them."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        return F.interpolate(self.network.infer(images), images.shape[-2:], mode="bilinear", align_corners=True)


class PlainDetections(nn.Module):
    """A detector of any library, by its own `detect`: what `detectors.PlainDetector` computes, with as many rows as are
    found."""

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of an image."""
        height, width = size.tolist()
        (found,) = self.network.detect(image, [(height, width)])
        return found["boxes"], found["scores"], found["labels"]


@dataclass(frozen=True)
class Plain:
    """A network of tensors alone, with what an exporter has to know of it.

    Attributes:
        module: in evaluation mode.
        example: inputs of the sizes that it is traced with.
        inputs: name of each input and its shape; letters are any number.
        outputs: likewise.
        dynamic: dimensions of each input that may have any size, in the words of torch.export.
        obstacle: why the module can neither be traced nor exported; empty where it can.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    dynamic: tuple[dict[int, Any] | None, ...]
    obstacle: str = ""


def plain(network: Network, task: str, size: tuple[int, int], any_size: bool = True) -> Plain:
    """A network as deployment formats need it.

    Args:
        network: trained, on the CPU; it is put into evaluation mode.
        task: of the network.
        size: height and width of the images that it is traced with, pixels.
        any_size: segmenters: other sizes are possible, too, if the network allows.
    """
    module = plain_module(network, task)
    if task == "detection":
        return _detector(module, size)
    dim = torch.export.Dim
    height, width = size
    images = torch.zeros(2, 3, height, width)
    classes = network.num_classes
    if task == "classification":
        return Plain(
            module,
            (images,),
            {"images": ("N", 3, height, width)},
            {"logits": ("N", classes)},
            ({0: dim.DYNAMIC},),
        )
    h, w = ("H", "W") if any_size else size
    free = {2: dim.AUTO, 3: dim.AUTO} if any_size else {}
    return Plain(
        module,
        (images,),
        {"images": ("N", 3, h, w)},
        {"logits": ("N", classes, h, w)},
        ({0: dim.DYNAMIC, **free},),
    )


def plain_module(network: Network, task: str) -> nn.Module:
    """A network as a module of tensors alone, in evaluation mode."""
    if task == "detection":
        assert isinstance(network, Detector)
        from ..networks._torchvision_detectors import TorchvisionDetector

        if isinstance(network, TorchvisionDetector):
            return plain_detector(network).eval()
        return PlainDetections(network).eval()
    return (PlainClassifier if task == "classification" else PlainSegmenter)(network).eval()


def _detector(module: nn.Module, size: tuple[int, int]) -> Plain:
    dim = torch.export.Dim
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in size)
    return Plain(
        module,
        (torch.zeros(1, 3, height, width), torch.tensor(size)),
        {"image": (1, 3, "H", "W"), "size": (2,)},
        {"boxes": ("D", 4), "scores": ("D",), "labels": ("D",)},
        ({2: MULTIPLE * dim("rows"), 3: MULTIPLE * dim("columns")}, None),
        UNTRACEABLE if isinstance(module, PlainDetections) else "",
    )
