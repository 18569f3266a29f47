"""Any classifier of timm by its name, such as `timm:convnext_atto`; options of its constructor follow, `:img_size=32`.

timm (https://github.com/huggingface/pytorch-image-models) is imported when such a network is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SpecError, unknown
from ..spec import network_name
from ._family import Family, PublishedFile, check_published_classes

if TYPE_CHECKING:
    from .base import Network

PREFIX = "timm:"
GIVEN = ("pretrained", "num_classes", "features_only", "in_chans", "checkpoint_path", "pretrained_cfg")
"""Options of timm's that a run decides."""


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A classifier of timm.

    Args:
        name: `timm:ARCHITECTURE[.TAG][:OPTION=VALUE...]`.
        num_classes: K.
        init: "random" for timm's initialization, "published" for the weights of the tag, or of timm's default one.

    Raises:
        SpecError: an unknown architecture or option, or published weights that do not exist or are for other classes.
        CheckpointError: they are neither on this machine nor downloadable.
    """
    from . import _timm_network, _timm_weights

    parts = network_name.parsed(name)
    check(name)
    network = _timm_network.make(name, parts.network, num_classes, dict(parts.options))
    if init == "published":
        model_id = weights_id(name)
        check_published_classes(name, _timm_network.config(model_id).num_classes, num_classes)
        model: Any = network.model
        _timm_weights.load(model, model_id)
    return network


def check(name: str) -> None:
    """Refuse what timm does not have.

    Raises:
        SpecError: an unknown architecture or tag (the nearest is suggested), or an option that a run decides.
    """
    import timm

    parts = network_name.parsed(name)
    architecture, _, tag = parts.network.partition(".")
    if not timm.is_model(architecture):
        raise unknown("network of timm", architecture, timm.list_models())
    if tag and parts.network not in timm.list_pretrained(f"{architecture}.*"):
        raise unknown(f"weights of timm's {architecture}", tag, _tags(architecture))
    for option in parts.options:
        if option in GIVEN:
            raise SpecError(f"network {name}: {option} is decided by the run; leave it out")


def weights_id(name: str) -> str:
    """timm's `architecture.tag` of a name's published weights.

    Raises:
        SpecError: there are none.
    """
    import timm

    network = network_name.parsed(name).network
    config: Any = timm.get_pretrained_cfg(network)
    if config is None or not (config.hf_hub_id or config.url or config.tag):
        raise SpecError(f"{name} has no published weights; set init to random, or give a checkpoint of yours")
    return network if "." in network or not config.tag else f"{network}.{config.tag}"


def for_images(name: str, size: tuple[int, int]) -> str:
    """The name with `img_size`, where an architecture is built for one size of images and this is another.

    Raises:
        SpecError: the architecture cannot be built for this size.
    """
    from . import _timm_network

    parts = network_name.parsed(name)
    cfg = _timm_network.config(parts.network)
    if not cfg.fixed_input_size or "img_size" in parts.options or tuple(cfg.input_size[1:]) == size:
        return name
    img_size = size[0] if size[0] == size[1] else list(size)
    sized = parts._replace(options={**parts.options, "img_size": img_size})
    try:
        _timm_network.make(str(sized), parts.network, 2, dict(sized.options))
    except SpecError as error:
        raise SpecError(
            f"{name} reads images of {'x'.join(map(str, cfg.input_size[1:]))} pixels and is given "
            f"{'x'.join(map(str, size))}; {error}"
        ) from error
    return str(sized)


def published(name: str, file: Path, sha256: str) -> PublishedFile | None:
    """What timm states of one of its ImageNet files."""
    from . import _timm_weights

    return _timm_weights.published(network_name.parsed(name).network.partition(".")[0], file, sha256)


def weights(name: str, num_classes: int) -> Path:
    """The file of a name's published weights.

    Raises:
        SpecError: there are none, or they are for other classes.
        CheckpointError: they are neither on this machine nor downloadable.
    """
    from . import _timm_network, _timm_weights

    check(name)
    model_id = weights_id(name)
    check_published_classes(name, _timm_network.config(model_id).num_classes, num_classes)
    return _timm_weights.find(model_id)


def _tags(architecture: str) -> list[str]:
    import timm

    return [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]


FAMILY = Family(
    task="classification",
    names=lambda: (),
    head=lambda _name: "classifier",
    build=build,
    inits=lambda _name: ("random", "published"),
    pattern=PREFIX,
    check=check,
    for_images=for_images,
    published=published,
    weights=weights,
)
