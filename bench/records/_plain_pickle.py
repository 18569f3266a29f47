"""Unpickling of tensors, arrays and plain values: no other class is made and no other function is called."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

DEEPEST = 16
"""Levels of dicts and lists in which arrays are looked for."""

NUMERIC = "biufc"  # numpy's kinds of numbers
TEXT = "SU"

CALLS_CODE = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|socket|runpy|importlib|ctypes|pty|code|webbrowser|multiprocessing)\..*"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|__import__|getattr|open|apply|input)"
)
"""Names that no checkpoint has and that attacks use."""

OF_TENSORS = re.compile(
    r"torch(\._utils|\._tensor|\.storage|\.serialization|\.nn\.parameter)?\.\w+|collections\.OrderedDict"
)
"""Names that torch writes for a tensor or a state dict."""


class RefusedError(pickle.UnpicklingError):
    """A pickle names objects that are not read.

    Attributes:
        names: of the objects, such as "omegaconf.dictconfig.DictConfig".
        key: of the file's state dict, where it is known.
    """

    def __init__(self, names: list[str], key: str | None = None) -> None:
        super().__init__(", ".join(names))
        self.names, self.key = names, key


class DType:
    """numpy.dtype, as far as numbers and text need it."""

    def __init__(self, code: str, *_flags: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any] | None:
        """numpy's own; None for what is neither number nor text."""
        if not re.fullmatch(rf"[{NUMERIC}{TEXT}]\d+", self.code):
            return None
        dtype = np.dtype(self.code)
        return dtype.newbyteorder(">") if self.order == ">" else dtype


class Array:
    """numpy.ndarray while it is unpickled; `value` is a tensor, or None for an array without numbers."""

    def __init__(self) -> None:
        self.value: torch.Tensor | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, raw = state
        self.value = _tensor(raw, dtype, shape, "F" if fortran else "C")


class Namespace:
    """argparse.Namespace: options of a script, which nothing here reads."""


def as_tensors(value: Any, depth: int = 0, seen: dict[int, Any] | None = None) -> Any:
    """The value with tensors in place of its arrays, in dicts and lists too."""
    seen = {} if seen is None else seen
    if isinstance(value, Array):
        return value.value
    if not isinstance(value, dict | list) or depth > DEEPEST:
        return value
    if id(value) in seen:  # shared by several parents
        return seen[id(value)]
    places = seen[id(value)] = value
    for key, inner in list(places.items() if isinstance(places, dict) else enumerate(places)):
        places[key] = as_tensors(inner, depth + 1, seen)
    return places


def refused_globals(names: Iterable[str]) -> list[str]:
    """Of the names in a pickle, those that belong to no tensor, array or plain value; those that call code first."""
    known = {f"{module}.{name}" for module, name in NUMPY_GLOBALS}
    odd = {name for name in names if name not in known and not OF_TENSORS.fullmatch(name)}
    return sorted(odd, key=lambda name: (not CALLS_CODE.fullmatch(name), name))


def _tensor(raw: Any, dtype: DType, shape: tuple[int, ...], order: Any) -> torch.Tensor | None:
    form = dtype.numpy()
    if form is None or form.kind not in NUMERIC:
        return None
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    array = np.frombuffer(data, form).reshape(shape, order=order)
    return torch.from_numpy(np.array(array, form.newbyteorder("="), order="C"))


def _new_array(_kind: Any, _shape: Any, _dtype: Any) -> Array:
    return Array()


def _array_of_buffer(raw: Any, dtype: DType, shape: tuple[int, ...], order: str) -> Array:
    array = Array()
    array.value = _tensor(raw, dtype, shape, order)
    return array


def _scalar(dtype: DType, raw: Any = b"") -> int | float | complex | bool | str | bytes | None:
    form = dtype.numpy()
    if form is None:
        return None
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(data, form, 1)[0].item()  # type: ignore[no-any-return]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding[:20]}")
    return text.encode("latin1")


NUMPY_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): DType,
    ("numpy", "ndarray"): Array,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of_buffer for core in ("core", "_core")},
    ("argparse", "Namespace"): Namespace,
    ("_codecs", "encode"): _encode,
}
"""What a pickle may name besides tensors, by module and name, and what is made of it: nothing of numpy is called."""

SAFE_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (made, f"{module}.{name}") for (module, name), made in NUMPY_GLOBALS.items() if module != "_codecs"
]
"""The same for torch's unpickler, which knows `_codecs.encode`."""


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain values and numpy arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in NUMPY_GLOBALS:
            return NUMPY_GLOBALS[module, name]
        raise RefusedError([f"{module}.{name}"])
