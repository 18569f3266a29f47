"""Networks compiled by `torch.compile` for training; they train eagerly where the compiler fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..networks.base import Network
from ..spec.recipe import Recipe
from ..tasks.precision import autocast

BACKEND: Any = "inductor"

FORMS = 64
"""Architectures, modes and sizes of a batch that a process may compile."""


def compile_networks(networks: Iterable[tuple[Network, Tensor]], recipe: Recipe) -> str:
    """Compile the forward and backward passes of networks in their present modes, and try each of them.

    Neither weights nor buffers change.

    Args:
        networks: each with a batch of its inputs [N, 3, H, W]; those in eval mode are compiled without gradients.
        recipe: of the training.

    Returns:
        Why all networks stay eager in this process; empty where all are compiled.
    """
    import torch._dynamo.config  # these take seconds to import
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = FORMS
    torch._inductor.config.fallback_random = True  # dropout draws what it draws in eager mode
    torch._inductor.config.freezing = True  # a frozen teacher's BatchNorm is folded into its convolutions
    for network, inputs in networks:
        network.compile(fullgraph=True, dynamic=False, backend=BACKEND)
        try:
            with _unchanged(network):
                _try(network, inputs, recipe)
        except Exception as error:  # noqa: BLE001 - what is not the compiler's fault, the eager step meets again
            torch.compiler.set_stance("force_eager")
            text = " ".join(str(error).splitlines()[:2])
            return f"torch.compile fails for {type(network).__name__}: {type(error).__name__}: {text}"
    return ""


def eager(recipe: Recipe) -> AbstractContextManager[object]:
    """Run networks eagerly inside, also those that are compiled for a training by the recipe."""
    return torch.compiler.set_stance("force_eager") if recipe.compile else nullcontext()


def _try(network: Network, inputs: Tensor, recipe: Recipe) -> None:
    with torch.set_grad_enabled(network.training):
        with autocast(recipe, inputs.device, teacher=not network.training):
            outputs = network(inputs)
        if network.training:
            assert isinstance(outputs.logits, Tensor)
            outputs.logits.float().sum().backward()


@contextmanager
def _unchanged(network: Network) -> Iterator[None]:
    """Restore buffers and gradients afterwards."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
        for parameter, gradient in gradients:
            parameter.grad = gradient
