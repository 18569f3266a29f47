"""Any classifier or segmenter of torchvision by its name, such as `torchvision:regnet_y_400mf`.

Options of its constructor follow, and `layers` and `classifier` as in `hooked.HookedNetwork`, which reads the features.
ResNets have the features of `resnet18` and its like here. Detectors of torchvision are in `detectors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SpecError, unknown
from ..spec import network_name
from ._family import Family, PublishedFile, check_published_classes

if TYPE_CHECKING:
    from .base import Network

PREFIX = "torchvision:"
GIVEN = ("weights", "weights_backbone", "num_classes")
"""Options of torchvision's that a run decides."""

FIXED_SIZE = {"vit": "image_size", "maxvit": "input_size"}
"""Architectures that are built for one size of images, and the option that takes it."""

INIT_WEIGHTS = ("googlenet", "inception_v3")
"""Architectures that warn unless they are told to have their initialization, which is torchvision's default."""


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A network of torchvision.

    Args:
        name: `torchvision:ARCHITECTURE[.WEIGHTS][:OPTION=VALUE...]`.
        num_classes: K.
        init: "random" for torchvision's initialization, "published" for the named weights, or its default ones.

    Raises:
        SpecError: an unknown architecture, weights or option, or published weights for other classes.
        CheckpointError: they are neither on this machine nor downloadable.
    """
    import torch
    from torchvision import models

    from ..records.checkpoint import read
    from . import _imagenet_networks, _torchvision_weights
    from ._state_dicts import load_weights
    from .hooked import HookedNetwork

    check(name)
    parts = network_name.parsed(name)
    options: dict[str, Any] = dict(parts.options)
    if parts.network.partition(".")[0] in INIT_WEIGHTS:
        options.setdefault("init_weights", True)
    hooks = {key: options.pop(key) for key in ("layers", "classifier") if key in options}
    if task(name) == "segmentation":
        options["weights_backbone"] = None
    architecture, device = _architecture(name), torch.get_default_device()
    try:
        with torch.device("cpu"):  # constructors that compute widths with tensors fail on other devices, such as meta
            model = models.get_model(architecture, weights=None, num_classes=num_classes, **options).to(device)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise SpecError(f"network {name}: torchvision cannot build it: {type(error).__name__}: {error}") from error
    if init == "published":
        weights = weights_of(name)
        check_published_classes(name, len(weights.meta["categories"]), num_classes)
        path = _torchvision_weights.find(weights.url)
        load_weights(model, read(path), path)
    if isinstance(model, models.ResNet) and not hooks:
        return _imagenet_networks.ResNet(model, num_classes)
    size = next((options[key] for key in FIXED_SIZE.values() if isinstance(options.get(key), int)), None)
    try:
        return HookedNetwork(model, num_classes, size=size, **hooks)
    except SpecError as error:
        raise SpecError(f"network {name}: {error}") from error


def check(name: str) -> None:
    """Refuse what torchvision does not have.

    Raises:
        SpecError: an unknown architecture or weights (the nearest is suggested), an option that a run decides, or a
            network for another task.
    """
    from torchvision import models

    architecture, known = _architecture(name), [*models.list_models(models), *models.list_models(models.segmentation)]
    if architecture in models.list_models(models.detection):
        raise SpecError(f"{name}: detectors of torchvision have names of their own; see `kdbench list networks`")
    if architecture not in known:
        raise unknown("network of torchvision", architecture, known)
    for option in network_name.parsed(name).options:
        if option in GIVEN:
            raise SpecError(f"network {name}: {option} is decided by the run; leave it out")
    if "." in network_name.parsed(name).network:
        weights_of(name)


def task(name: str) -> str:
    """Classification or segmentation."""
    from torchvision import models

    segmenters = models.list_models(models.segmentation)
    return "segmentation" if _architecture(name) in segmenters else "classification"


def weights_of(name: str) -> Any:
    """torchvision's weights of a name: the named ones, or its default.

    Raises:
        SpecError: there are none of that name.
    """
    from torchvision import models

    available = models.get_model_weights(_architecture(name))
    _, _, wanted = network_name.parsed(name).network.partition(".")
    if not wanted:
        return available.DEFAULT
    if wanted not in available.__members__:
        raise unknown(f"weights of torchvision's {_architecture(name)}", wanted, available.__members__)
    return available[wanted]


def weights(name: str, num_classes: int) -> Path:
    """The file of a name's published weights.

    Raises:
        SpecError: there are none of that name, or they are for other classes.
        CheckpointError: they are neither on this machine nor downloadable.
    """
    from . import _torchvision_weights

    check(name)
    found = weights_of(name)
    check_published_classes(name, len(found.meta["categories"]), num_classes)
    return _torchvision_weights.find(found.url)


def for_images(name: str, size: tuple[int, int]) -> str:
    """The name with the side of the images, where an architecture is built for one side.

    Raises:
        SpecError: the architecture cannot be built for this size.
    """
    parts = network_name.parsed(name)
    option = FIXED_SIZE.get(_architecture(name).split("_")[0])
    if option is None or option in parts.options or size == (224, 224):
        return name
    if size[0] != size[1]:
        raise SpecError(f"{name} reads square images and is given {size[0]}x{size[1]}; choose another network")
    value: Any = list(size) if option == "input_size" else size[0]
    sized = str(parts._replace(options={**parts.options, option: value}))
    try:
        build(sized, 2)
    except SpecError as error:
        raise SpecError(f"{name} is given images of {size[0]}x{size[1]} pixels; {error}") from error
    return sized


def published(name: str, _file: Path, sha256: str) -> PublishedFile | None:
    """What torchvision states of one of its ImageNet files."""
    from . import _torchvision_weights

    return _torchvision_weights.published(_architecture(name), sha256) if task(name) == "classification" else None


def _architecture(name: str) -> str:
    return network_name.parsed(name).network.partition(".")[0]


FAMILY = Family(
    task=task,
    names=lambda: (),
    head=lambda name: "segmenter" if task(name) == "segmentation" else "classifier",
    build=build,
    inits=lambda _name: ("random", "published"),
    pattern=PREFIX,
    check=check,
    for_images=for_images,
    published=published,
    weights=weights,
)
