"""Networks from checkpoint files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError, SpecError
from ..records import checkpoint as checkpoints
from ..text import counted
from . import build, names, task, unavailable
from ._state_dicts import MisfitError, check_values, closest, fit, load_weights, misfit
from .base import Network
from .with_head import head_in, with_head


def load_network(file: Path, name: str, classes: tuple[str, ...], device: torch.device) -> Network:
    """The network `name` with the weights in a file, every tensor of which must fit.

    Args:
        file: a checkpoint written here, or weights of another program: under the names of the network's library, with
            a prefix or without, alone or under a key.
        name: one of `networks.names()`.
        classes: names of the K classes of the data.
        device: where the network is put.

    Raises:
        CheckpointError: the file is damaged, another network's, made for other classes, or not finite.
    """
    content, head = _content(file, classes)
    network = build(name, len(classes))
    try:
        load_weights(network, content, file, network.convert_state_dict)
    except MisfitError as error:
        raise CheckpointError(f"{error}{suggestion(content, task(name), len(classes))}") from error
    return (network if head is None else with_head(network, head, file)).to(device)


def _content(file: Path, classes: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The content of a checkpoint for these classes, and apart from it the head of a student that has one."""
    content = checkpoints.read(file)
    check_classes(content, file, classes)
    head = head_in(content)
    return {key: value for key, value in content.items() if head is None or value is not head}, head


class Trial(NamedTuple):
    """Whether a file fits networks.

    Attributes:
        notices: by the networks that it fits, what differs from their own state dicts.
        refusals: by the other networks, why it does not fit.
    """

    notices: dict[str, tuple[str, ...]]
    refusals: dict[str, str]


def try_networks(file: Path, candidates: list[str], classes: tuple[str, ...]) -> Trial:
    """Which of some networks the weights in a file fit.

    Args:
        file: as in `load_network`.
        candidates: names of networks.
        classes: names of the K classes of the data.

    Raises:
        CheckpointError: the file is damaged, made for other classes, or its weights cannot be used by a network that
            they fit.
    """
    content, _ = _content(file, classes)
    trial = Trial({}, {})
    for name in candidates:
        network = _shapes(name, len(classes))
        try:
            found = fit(network, content, file, network.convert_state_dict)
        except MisfitError as error:
            trial.refusals[name] = str(error)
        else:
            check_values(found.state, file)
            trial.notices[name] = found.notices
    return trial


def explain_misfit(file: Path, name: str, classes: tuple[str, ...]) -> str:
    """The networks of the task of `name` that the weights in a file do fit, as the end of a message."""
    return suggestion(checkpoints.read(file), task(name), len(classes))


def check_classes(content: dict[str, Any], file: Path, classes: tuple[str, ...]) -> None:
    """Refuse a checkpoint that records other classes than those of the data.

    Raises:
        CheckpointError: names both class lists.
    """
    recorded = content.get("classes")
    if not isinstance(recorded, list | tuple) or not all(isinstance(each, str) for each in recorded):
        return  # another program's, such as their number
    if tuple(recorded) != classes:
        raise CheckpointError(
            f"{file} was trained for {counted(len(recorded), 'class', 'classes')} ({', '.join(recorded[:3])}, ...) and "
            f"the data has {len(classes)} ({', '.join(classes[:3])}, ...); give a checkpoint for the same data set"
        )


@lru_cache(maxsize=64)
def _shapes(name: str, num_classes: int) -> Network:
    """A network whose tensors have shapes, and no values where it can be built without any; not to be changed."""
    try:
        with torch.device("meta"):
            return build(name, num_classes)
    except SpecError:  # its forward may read values
        with torch.random.fork_rng(devices=[]):
            return build(name, num_classes)


def _classes(name: str, state: Mapping[str, Tensor], wrong: str, num_classes: int) -> int | None:
    """The number of classes with which a network has the shapes of a state dict; None if there is none.

    Args:
        name: of the network.
        state: under its names.
        wrong: a tensor that has another shape in the network for `num_classes`.
        num_classes: of which a head may have several rows each, or one more for the background.
    """
    sizes = [_shapes(name, count).state_dict()[wrong].shape for count in (num_classes, num_classes + 1)]
    here, step = sizes[0][0], sizes[1][0] - sizes[0][0]
    if not step or (state[wrong].shape[0] - here) % step:
        return None
    classes: int = num_classes + (state[wrong].shape[0] - here) // step
    if classes < 1 or misfit(dict(state), _shapes(name, classes).state_dict()):
        return None
    return classes


def suggestion(content: Mapping[str, Any], task_name: str, num_classes: int) -> str:
    """The networks of a task that the weights in a file do fit, as the end of a message; empty where there are none."""
    fitting = []
    for name in names():
        if task(name) != task_name or unavailable(name):
            continue
        network = _shapes(name, num_classes)
        state, wrong = closest(network, content, network.convert_state_dict)
        expected = network.state_dict()
        if not wrong:
            fitting.append(name)
        elif state.keys() == expected.keys() and (classes := _classes(name, state, wrong[0], num_classes)):
            fitting.append(f"{name} with {counted(classes, 'class', 'classes')}")
    return f". It fits {' and '.join(fitting[:3])}" if fitting else ""
