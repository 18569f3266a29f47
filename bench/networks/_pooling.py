"""Which map a classifier pools: read from the operations of a forward, so it works without values, on meta tensors too.

A network of a library or of a user's file returns logits alone. Its classifier's input is the mean over space of a map
where nothing but that mean and changes of shape lie between them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

RESHAPES = ("view", "_unsafe_view", "reshape", "flatten", "squeeze", "clone", "contiguous", "alias", "detach")
"""Operations that keep the values of [N, D, 1, 1] or [N, 1, 1, D]."""

SPACE = {(2, 3): "map", (1, 2): "channels_last"}
"""Dimensions of a 4-D tensor that are averaged, and the layout that it has then."""

Key = tuple[int, int, tuple[int, ...], tuple[int, ...]]


class PooledMaps(TorchDispatchMode):
    """Records the operations of a forward without gradients, to find the map behind a pooled vector."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made: dict[Key, tuple[Any, tuple[Any, ...]]] = {}
        self._kept: list[Any] = []  # a storage that is freed could be another tensor's later

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = key(args[0]) if args and isinstance(args[0], Tensor) else None
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            if _name(func) == "as_strided_":  # only the shape is another one
                self._made |= {key(result): self._made[before]} if before in self._made else {}
            elif not (before == key(result) and _name(func) in RESHAPES):  # what is changed in place is made anew
                self._made[key(result)] = func, args
            self._kept.append((result, args))
        return result

    def behind(self, pooled: Tensor) -> tuple[Key, str] | None:
        """The map whose mean over space a tensor [N, D] is, and its layout, "map" or "channels_last"; None for none."""
        value = pooled
        while key(value) in self._made:
            func, args = self._made[key(value)]
            name = _name(func)
            if name == "mean" and args[0].ndim == 4 and len(args) > 1:
                layout = SPACE.get(tuple(sorted(dim % 4 for dim in args[1])))
                return None if layout is None else (key(args[0]), layout)
            if name in ("_adaptive_avg_pool2d", "adaptive_avg_pool2d"):
                return (key(args[0]), "map") if list(args[1]) == [1, 1] and args[0].ndim == 4 else None
            if name not in RESHAPES or args[0].numel() != pooled.numel():
                return None
            value = args[0]
        return None


def _name(func: Any) -> str:
    return str(func.__name__).split(".")[0]


def key(tensor: Tensor) -> Key:
    """Equal for tensors of one storage, place and shape."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset()), tuple(tensor.shape), tuple(tensor.stride())
