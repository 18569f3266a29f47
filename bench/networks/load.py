"""Networks from checkpoint files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..records import checkpoint as checkpoints
from . import build
from .base import Network


def load_network(file: Path, name: str, classes: tuple[str, ...], device: torch.device) -> Network:
    """The network `name` with the weights in a file, every tensor of which must fit.

    Args:
        file: a checkpoint written here, or weights under the names of the network's library.
        name: one of `networks.names()`.
        classes: names of the K classes of the data.
        device: where the network is put.

    Raises:
        CheckpointError: the file is damaged, another network's, or made for other classes.
    """
    content = checkpoints.read(file)
    check_classes(content, file, classes)
    network = build(name, len(classes))
    state = network.convert_state_dict(checkpoints.state_of(content, file))
    checkpoints.load_strictly(network, state, file)
    return network.to(device)


def check_classes(content: dict[str, Any], file: Path, classes: tuple[str, ...]) -> None:
    """Refuse a checkpoint that records other classes than those of the data.

    Raises:
        CheckpointError: names both class lists.
    """
    recorded = content.get("classes")
    if recorded is not None and tuple(recorded) != classes:
        raise CheckpointError(
            f"{file} was trained for {len(recorded)} classes ({', '.join(recorded[:3])}, ...) and the data has "
            f"{len(classes)} ({', '.join(classes[:3])}, ...); give a checkpoint for the same data set"
        )
