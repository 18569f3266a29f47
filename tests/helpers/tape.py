"""A recorder for the CPU that keeps to the rules of CUDA graphs, so that captured training can be tested anywhere.

What work does to tensors is written down and undone; a replay does it again at the same addresses. Python is not run
again, and what would wait for a device, or bring numbers to it, is refused as during a capture on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from kdbench.errors import CaptureError
from kdbench.train.capture import Result

REFUSED = {"_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "_unique2", "bincount", "equal"}
UNDECLARED = {"native_batch_norm": (3, 4)}
"""Arguments that an operation writes and its schema does not say."""


class Tape:
    """A `kdbench.train.capture.Recorder`.

    Attributes:
        captures: how much work was captured.
        replays: how often something was replayed.
    """

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def stream(self) -> AbstractContextManager[object]:
        return nullcontext()

    def capture(self, work: Callable[[], Result], lasting: bool) -> tuple[Callable[[], object], Result]:
        state, written = torch.get_rng_state(), _Written()
        with written:
            result = work()
        torch.set_rng_state(state)
        written.undo()
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            written.again()

        return replay, result


class _Written(TorchDispatchMode):
    """Keeps other tensors of the same memory: autograd treats one that somebody else holds in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.known: set[int] = set()  # addresses that these calls made, or that `before` holds
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _refuse(func, args)
        held = tree_map_only(Tensor, Tensor.detach, args)
        for tensor in _targets(func, held):
            if (address := tensor.untyped_storage().data_ptr()) not in self.known:
                self.known.add(address)
                self.before.append((tensor, tensor.clone()))
        shown = func(*args, **(kwargs or {}))
        own = tree_map_only(Tensor, Tensor.detach, shown)
        self.known |= _addresses(own) - _addresses(held)
        self.calls.append((func, held, kwargs or {}, own))
        return shown

    @torch.no_grad()
    def undo(self) -> None:
        for tensor, value in self.before:
            tensor.copy_(value)

    @torch.no_grad()
    def again(self) -> None:
        for func, args, kwargs, shown in self.calls:
            fresh = func(*args, **kwargs)
            if all(answer.alias_info is None for answer in func._schema.returns):
                for old, new in zip(_tensors(shown), _tensors(fresh), strict=True):
                    old.copy_(new)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _addresses(tree: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in _tensors(tree)}


def _targets(func: Any, args: Any) -> list[Tensor]:
    """The arguments that a call writes."""
    declared = [
        value
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    more = [args[place] for place in UNDECLARED.get(func._schema.name.removeprefix("aten::"), ())]
    return _tensors([declared, more])


def _refuse(func: Any, args: Any) -> None:
    name = func._schema.name.removeprefix("aten::")
    masks = name in ("index", "index_put", "index_put_") and any(
        leaf.dtype in (torch.bool, torch.uint8) for leaf in _tensors(args[1])
    )
    if name in REFUSED or masks:
        raise CaptureError(f"{name} would wait for the device")
