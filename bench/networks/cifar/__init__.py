"""Classifiers for 32x32 images, by name.

The networks of RepDistiller (Tian et al., ICLR 2020, github.com/HobbitLong/RepDistiller, also those of mdistiller)
under its state-dict names, so that published teacher files load strictly, and the four-stage ResNets of Adaptive
Distillation (arXiv 2110.09674). The mobile networks and ResNet50 carry `cifar_`, for they are not the ImageNet networks
of that name: `cifar_mobilenet_v2` is RepDistiller's half-width one.

Every network shows the stem and its stages as `features`, and in `extra["pre_activations"]` the stages as
RepDistiller's `preact=True` does, without a second pass or a copy. All pool globally, so that images of other sizes
than 32x32 pass too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from ...errors import unknown

if TYPE_CHECKING:
    from ..base import Network

NAMES: tuple[str, ...] = (
    "resnet8",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet8x4",
    "resnet32x4",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
    "vgg8",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "cifar_mobilenet_v2",
    "cifar_shufflenet_v1",
    "cifar_shufflenet_v2",
    "cifar_resnet50",
    "cifar_resnet18_4stage",
    "cifar_resnet50_4stage",
)

_MODULES = ("resnet", "wrn", "vgg", "mobilenet", "shufflenet")


def build(name: str, num_classes: int) -> Network:
    """A network with `num_classes` outputs and its authors' random initialisation.

    Args:
        name: one of `NAMES`.
        num_classes: K.

    Raises:
        SpecError: an unknown name; the nearest is suggested.
    """
    if name not in NAMES:
        raise unknown("network", name, NAMES)
    module = next(module for module in _MODULES if name.removeprefix("cifar_").startswith(module))
    return cast("Network", import_module(f"{__name__}.{module}").build(name, num_classes))
