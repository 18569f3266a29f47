"""Networks in users' files: `net.py:build` is the function `build` of a file, which `--student ./net.py:build` names.

The function takes the number of classes and returns a `Network`, or any `nn.Module`, whose features are then read by
hooks (`hooked.HookedNetwork`). `TASK` in the file says what its networks are for, classification unless it is there,
and of detectors `HEAD` which head.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..errors import SpecError, unknown
from ..spec import network_name
from ._family import Family

if TYPE_CHECKING:
    from .base import Network

TASKS = ("classification", "detection", "segmentation")
SIZES = ("image_size", "img_size")
"""Parameters of a function that take the side of a square image, in pixels."""


def build(name: str, num_classes: int, init: str = "random") -> Network:
    """A network of a user's file.

    Args:
        name: `FILE.py:FUNCTION[:OPTION=VALUE...]`; options are arguments of the function, and `layers` and `classifier`
            as in `HookedNetwork`.
        num_classes: K, the function's first argument.
        init: "random": whatever weights the function returns.

    Raises:
        SpecError: the function fails, or returns no network.
    """
    import torch
    from torch import nn

    from .base import Network
    from .hooked import HookedNetwork

    parts = network_name.parsed(name)
    function = network_name.function_of(parts)
    options: dict[str, Any] = dict(parts.options)
    accepted = inspect.signature(function).parameters
    hooks = {key: options.pop(key) for key in ("layers", "classifier") if key in options and key not in accepted}
    try:
        inspect.signature(function).bind(num_classes, **options)
    except TypeError as error:
        raise SpecError(f"network {name}: {parts.network}{inspect.signature(function)}: {error}") from error
    try:
        made = function(num_classes, **options)
    except (Exception, SystemExit) as error:  # a script may end itself
        where = f"{network_name.file_of(name)}: {parts.network}"
        raise SpecError(f"{where} fails: {type(error).__name__}: {error}") from error
    if isinstance(made, Network):
        if hooks:
            raise SpecError(f"network {name}: {parts.network} returns a Network, so leave {', '.join(hooks)} out")
        return made
    if not isinstance(made, nn.Module):
        raise SpecError(f"network {name}: {parts.network} returns {type(made).__name__}, and must return an nn.Module")
    if isinstance(made, torch.jit.ScriptModule) or hasattr(made, "_orig_mod"):
        raise SpecError(
            f"network {name}: {parts.network} returns a compiled module, which has no layers that hooks can read; "
            "return the module before torch.compile or torch.jit"
        )
    size = next((options[key] for key in SIZES if isinstance(options.get(key), int)), None)
    try:
        return HookedNetwork(made, num_classes, size=size, **hooks)
    except SpecError as error:
        raise SpecError(f"network {name}: {error}") from error


def task(name: str) -> str:
    """What the networks of the file are for.

    Raises:
        SpecError: its `TASK` is none.
    """
    parts = network_name.parsed(name)
    found = getattr(network_name.module_of(parts), "TASK", "classification")
    if found not in TASKS:
        raise unknown(f"TASK of {parts.source}", str(found), TASKS)
    return str(found)


def head(name: str) -> str:
    """The kind of head that teacher and student must share.

    Raises:
        SpecError: the file of a detector does not name it.
    """
    of = task(name)
    if of != "detection":
        return {"classification": "classifier", "segmentation": "segmenter"}[of]
    parts = network_name.parsed(name)
    found = getattr(network_name.module_of(parts), "HEAD", None)
    if not isinstance(found, str):
        raise SpecError(f'{parts.source}: a detector\'s file names its head, as in HEAD = "retinanet"')
    return found


def check(name: str) -> None:
    """Refuse a network whose file is not known here, or has no such function.

    Raises:
        SpecError: says which.
    """
    network_name.function_of(network_name.parsed(name))


def for_images(name: str, size: tuple[int, int]) -> str:
    """The name with the side of the images, where the function has a parameter for it and they are square."""
    parts = network_name.parsed(name)
    parameters = inspect.signature(network_name.function_of(parts)).parameters
    wanted = [key for key in SIZES if key in parameters and key not in parts.options]
    if not wanted or size[0] != size[1]:
        return name
    return str(parts._replace(options={**parts.options, wanted[0]: size[0]}))


FAMILY = Family(
    task=task,
    names=lambda: (),
    head=head,
    build=build,
    pattern=network_name.FILE_NAME,
    check=check,
    for_images=for_images,
)
