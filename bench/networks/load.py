"""Networks from checkpoint files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..records import checkpoint as checkpoints
from . import build
from .base import Network


def check_classes(content: dict[str, Any], file: Path, classes: tuple[str, ...]) -> None:
    """Refuse a checkpoint that says it was trained for other classes.

    Raises:
        CheckpointError: names both class lists.
    """
    own = content.get("classes")
    if own is not None and tuple(own) != classes:
        raise CheckpointError(
            f"{file} was trained for {len(own)} classes ({', '.join(own[:3])}, ...) and the data has {len(classes)} "
            f"({', '.join(classes[:3])}, ...); give a checkpoint for the same data set"
        )


def load_network(file: Path, name: str, classes: tuple[str, ...], device: torch.device) -> Network:
    """The network in a saved file, strictly.

    Raises:
        CheckpointError: the file is damaged, another network's, or made for other classes.
    """
    content = checkpoints.read(file)
    check_classes(content, file, classes)
    network = build(name, len(classes))
    state = network.named_here(checkpoints.state_of(content, file))
    checkpoints.load_strictly(network, state, file)
    return network.to(device)
