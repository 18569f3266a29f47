"""ImageNet classifiers: torchvision's and timm's networks, and MobileNetV1.

DIST (NeurIPS 2022, github.com/hunto/image_classification_sota) trains and distills torchvision's ResNets and
MobileNetV2 (with their dropout), timm's `tf_efficientnet_b0` (without) and Swin, and a plain MobileNetV1; DKD and
torchdistill use the same ResNets and MobileNetV1. The `features` of each are the stem and four stages.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SpecError
from ._family import Family, PublishedFile

if TYPE_CHECKING:
    from pathlib import Path

    from .base import Network

NAMES: tuple[str, ...] = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet50_sb",
    "mobilenet_v1",
    "mobilenet_v2",
    "efficientnet_b0",
    "swin_t",
    "swin_l",
)


class Published(NamedTuple):
    """Published weights trained on ImageNet-1k, with their reported accuracy.

    Attributes:
        library: "torchvision" or "timm".
        weights: torchvision's name of the weights, or timm's `architecture.tag`.
        top1: percent on the 50,000 validation images at 224 pixels, ImageNet mean and standard deviation.
        crop: 224 divided by the length to which the shorter side was resized when `top1` was measured.
        interpolation: of that resize.
        source: where `top1` is reported.
    """

    library: str
    weights: str
    top1: float
    crop: float
    interpolation: str
    source: str


def _torchvision(top1: float) -> Published:
    return Published("torchvision", "IMAGENET1K_V1", top1, 0.875, "bilinear", "torchvision's weight metadata")


_TIMM = "timm results/results-imagenet.csv @4e5207c"

PUBLISHED: dict[str, Published] = {
    "resnet18": _torchvision(69.758),
    "resnet34": _torchvision(73.314),
    "resnet50": _torchvision(76.130),
    "resnet101": _torchvision(77.374),
    "resnet152": _torchvision(78.312),
    "mobilenet_v2": _torchvision(71.878),
    # timm's default for `resnet50` from October 2021 until after DIST. timm itself prints 80.382 for it, at crop 0.95
    # and bicubic (and 80.1 for no ResNet-50 tag); DIST's code evaluates with Resize(256), CenterCrop(224), bilinear.
    "resnet50_sb": Published("timm", "resnet50.a1_in1k", 80.1, 0.875, "bilinear", "hunto/DIST_KD README @2418f18"),
    # timm's default for `tf_efficientnet_b0` in the same years.
    "efficientnet_b0": Published("timm", "tf_efficientnet_b0.aa_in1k", 76.882, 0.875, "bicubic", _TIMM),
    "swin_t": Published("timm", "swin_tiny_patch4_window7_224.ms_in1k", 81.388, 0.9, "bicubic", _TIMM),
    "swin_l": Published("timm", "swin_large_patch4_window7_224.ms_in22k_ft_in1k", 86.320, 0.9, "bicubic", _TIMM),
}
"""By network; the papers used none for MobileNetV1."""

CLAIMED = PUBLISHED | {
    "resnet50_sb": Published("timm", "resnet50.a1_in1k", 80.382, 0.95, "bicubic", _TIMM),
}
"""By network, the accuracy that the library itself states."""

PUBLISHED_CLASSES = 1000

OPTIONS = {"swin_t": ("drop_path",), "swin_l": ("drop_path",)}
"""Options of `build`, by network."""


def build(name: str, num_classes: int, init: str = "random", **options: Any) -> Network:
    """A network for 3-channel images; the Swins take 224x224 alone, the others any size.

    Args:
        name: one of `NAMES`.
        num_classes: K.
        init: "random" for the libraries' initialization, "published" for the weights in `PUBLISHED`.
        options: `drop_path` for the Swins: rate of the last block's stochastic depth, 0.2 by default as in Microsoft's
            configurations of both.

    Raises:
        SpecError: a `drop_path` that is no rate, or published weights that do not exist for this network or number of
            classes.
        CheckpointError: the published weights are neither on this machine nor downloadable, or another network's.
    """
    drop_path = options.get("drop_path", 0.0)
    if isinstance(drop_path, bool) or not isinstance(drop_path, int | float) or not 0 <= drop_path < 1:
        raise SpecError(f"{name}: drop_path is {drop_path!r}; use a number from 0 to below 1")
    if init == "published":
        _check_published(name, num_classes)
    from . import _imagenet_networks

    network = _imagenet_networks.make(name, num_classes, **options)
    if init == "published":
        load_published(network, name)
    return network


def load_published(network: Network, name: str) -> None:
    """Load its published weights into a network that `build(name, 1000)` returned.

    torchvision's are downloaded once where that is possible; timm's are read from `$KDBENCH_DATA/weights`.

    Raises:
        SpecError: there are no published weights for this network or number of classes.
        CheckpointError: they are neither on this machine nor downloadable, or another network's.
    """
    _check_published(name, network.num_classes)
    from . import _timm_weights, _torchvision_weights

    body: Any = network.model
    if PUBLISHED[name].library == "torchvision":
        _torchvision_weights.load_imagenet(body, name)
    else:
        _timm_weights.load(body, PUBLISHED[name].weights)


def published(name: str, file: Path, sha256: str) -> PublishedFile | None:
    """What torchvision or timm states of one of its files for a network; the accuracy of timm's is that of `CLAIMED`.

    Where `CLAIMED` has the file, its images are prepared as its accuracy was measured.
    """
    from . import _imagenet_networks, _timm_weights, _torchvision_weights

    if name == "mobilenet_v1":
        return None
    stated = None if name in _imagenet_networks.TIMM else _torchvision_weights.published(name, sha256)
    if stated is None:
        stated = _timm_weights.published(_imagenet_networks.TIMM.get(name, name), file, sha256)
    known = CLAIMED[name]
    if stated is None or stated.source != f"timm {known.weights}":
        return stated
    return replace(
        stated,
        metrics={"top1": known.top1},
        val_resize=int(stated.size / known.crop),
        interpolation=known.interpolation,
        source=f"{stated.source}; {known.source}",
    )


def _check_published(name: str, num_classes: int) -> None:
    if name not in PUBLISHED:
        raise SpecError(f"{name} has no published weights; set init to random, or give a checkpoint of yours")
    if num_classes != PUBLISHED_CLASSES:
        raise SpecError(
            f"{name}: the published weights are for {PUBLISHED_CLASSES} classes and the data has {num_classes}; "
            "set init to random"
        )


FAMILY = Family(
    task="classification",
    names=lambda: NAMES,
    head=lambda _name: "classifier",
    build=build,
    inits=lambda _name: ("random", "published"),
    options=lambda name: OPTIONS.get(name, ()),
    published=published,
)
