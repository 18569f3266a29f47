"""Classifiers for 32x32 images.

The networks of RepDistiller (Tian et al., ICLR 2020, github.com/HobbitLong/RepDistiller, also those of mdistiller)
under its state-dict names, so that published teacher files load strictly, and the four-stage ResNets of Adaptive
Distillation (arXiv 2110.09674). The mobile networks and ResNet50 are prefixed `cifar_`, for they are not the ImageNet
networks of that name: `cifar_mobilenet_v2` is RepDistiller's half-width MobileNetV2.

The `features` of each network are the stem and its stages, and `extra["pre_activations"]` the stages as RepDistiller's
`preact=True` returns them, without a second pass or a copy. All pool globally, so that they take images of other sizes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from .._family import Family

if TYPE_CHECKING:
    from ..base import Network

MODULES: dict[str, tuple[str, ...]] = {
    "resnet": (
        "resnet8",
        "resnet14",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet110",
        "resnet8x4",
        "resnet32x4",
        "cifar_resnet50",
        "cifar_resnet18_4stage",
        "cifar_resnet50_4stage",
    ),
    "wrn": ("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"),
    "vgg": ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"),
    "mobilenet": ("cifar_mobilenet_v2",),
    "shufflenet": ("cifar_shufflenet_v1", "cifar_shufflenet_v2", "cifar_shufflenet_v2_x1_5"),
}
"""The networks that each module of this package builds."""

NAMES = tuple(name for names in MODULES.values() for name in names)


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A network with `num_classes` outputs and its authors' random initialization.

    Args:
        name: one of `NAMES`.
        num_classes: K.
        init: "random".
    """
    module = next(module for module, names in MODULES.items() if name in names)
    return cast("Network", import_module(f"{__name__}.{module}").build(name, num_classes))


FAMILY = Family(task="classification", names=lambda: NAMES, head=lambda _name: "classifier", build=build)
