"""A student whose method puts a head in place of its classifier: the network as it is evaluated, saved and deployed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.base import MethodError, Outputs, StudentHead

from ..errors import CheckpointError
from .base import Network

KEYS = {"method", "arguments", "state"}
"""Of a head in a file of weights: the method's name, what its class is made with, and its tensors."""


class NetworkWithHead(Network):
    """A network, and a head that makes the logits of its outputs.

    The state of the network itself keeps its names, and its own classifier, which is not used.
    """

    def __init__(self, network: Network, head: StudentHead) -> None:
        super().__init__()
        self.network, self.head, self.num_classes = network, head, network.num_classes
        classifier = head.classifier
        self.info = replace(network.info, pooled_dim=classifier.in_features, classifier=classifier)

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        return self.head(self.network(x, targets))

    def used_parameters(self) -> Iterator[nn.Parameter]:
        own = self.network.info.classifier
        unused = {id(parameter) for parameter in own.parameters()} if own is not None else set()
        return (parameter for parameter in self.parameters() if id(parameter) not in unused)


def content_of(network: Network) -> dict[str, Any]:
    """What a file of weights holds of a network: its state on the CPU and, where it has one, its head."""
    if not isinstance(network, NetworkWithHead):
        return {"state": _state(network)}
    head = network.head
    described = {"method": head.method, "arguments": head.arguments, "state": _state(head)}
    return {"state": _state(network.network), "head": described}


def head_in(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The head in a file's content; None where it has none. Weights of other programs may have that name, too."""
    head = content.get("head")
    return head if isinstance(head, dict) and set(head) == KEYS else None


def with_head(network: Network, head: Mapping[str, Any], file: Path) -> Network:
    """A network with the head of its file.

    Raises:
        CheckpointError: the head is of a method that is not known here, or damaged.
    """
    from ..records.checkpoint import load_strictly

    try:
        made = methods.method_class(str(head["method"])).head_class
        if made is None:
            raise MethodError(f"{head['method']} has no head")
        module = made(**head["arguments"])
    except (MethodError, TypeError) as error:
        raise CheckpointError(f"{file} has a head that cannot be built: {error}") from error
    load_strictly(module, head["state"], file)
    return NetworkWithHead(network, module)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.cpu().contiguous() for key, value in module.state_dict().items()}
