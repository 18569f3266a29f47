"""Training code on an emulated CUDA device: what would fail on a GPU, or make the host wait for it, without having one.

The tensors of the device are CPU tensors whose storages are known to be "on cuda": `Tensor.device`, `.to`, `.cpu()` and
factories report and move them as torch does on a GPU, and each operation is checked for tensors of both devices. Every
value is computed, so code whose course depends on values runs as it is.

It knows no streams, kernels of its own or memory: what a kernel on a GPU computes, or how fast it is, it cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .findings import Finding, Kind, Place, Record, current_place

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")

WAITS = frozenset(
    {
        "_linalg_check_errors", "_local_scalar_dense", "_unique2", "bincount", "equal", "histc", "is_nonzero",
        "masked_select", "nms", "nonzero", "unique_consecutive", "unique_dim",
    }
)  # fmt: skip
"""Operations whose result, or its size, the host reads from the device."""
NO_SCALARS = frozenset({"cat", "gather", "index", "index_select", "scatter", "stack"})
"""Operations that take no 0-dim tensor of the CPU beside those of the device; elementwise ones do."""
PROPERTIES = SimpleNamespace(name="emulated", major=9, minor=0, L2_cache_size=50 * 2**20, multi_processor_count=132)
"""What libraries read of a GPU to choose how they work: an H100's."""
CHECKED_ON_CPU = frozenset({"one_hot"})
"""Functions that look at their values on a CPU alone."""
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
FROM_DATA = frozenset({torch.tensor, torch.as_tensor, torch.asarray})
NO_KERNEL = ("empty", "new_empty", "_unsafe_view", "_local_scalar_dense", "resize_", "set_", "lift_fresh")


class EmulatedCuda:
    """A device "cuda:0" in this block; `recorded` tells what happens on it."""

    def __init__(self) -> None:
        self.record = Record()
        self._storages: dict[int, StorageWeakRef] = {}  # a kept weak reference keeps its key from being used again
        self._places: dict[int, Place] = {}  # of findings, by the autograd node of their operation
        self._function = ""  # that Python called
        self._factories_on_cuda = False
        self._device: torch.device | None = None  # that a factory was given
        self._stack = ExitStack()
        self._functions = _Functions(self)

    def __enter__(self) -> Self:
        for patch in _patches(self):
            self._stack.enter_context(patch)
        self._stack.enter_context(_Operations(self))
        self._stack.enter_context(self._functions)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def recorded(self) -> Iterator[Record]:
        """What happens in a block."""
        before, self.record = self.record, Record()
        try:
            yield self.record
        finally:
            self.record = before

    def is_on_cuda(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages

    def device_of(self, tensor: Tensor) -> torch.device:
        return CUDA if self.is_on_cuda(tensor) else CPU

    def put_on_cuda(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = StorageWeakRef(storage)

    def moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        """A tensor, whose storage is its own, as one of the device."""
        if device.type == "cuda":
            self.put_on_cuda(tensor)
        else:
            self._storages.pop(tensor.untyped_storage()._cdata, None)
        return tensor

    def add(self, kind: Kind, op: str) -> None:
        """Add a finding; the backward pass of an operation belongs to the line of its forward."""
        node = torch._C._current_autograd_node()
        place = None if node is None else self._places.get(node._sequence_nr())
        if place is None:
            place = current_place()
        if node is None:
            self._places[torch.autograd._get_sequence_nr() - 1] = place
        op = self._function if op == "_local_scalar_dense" else op
        self.record.findings.append(Finding(kind, op, *place, node is not None))

    @contextmanager
    def within(self, function: str, device: torch.device | None, on_cuda: bool) -> Iterator[None]:
        """In a function, factories make tensors of the device that it was given, else of that of its inputs."""
        before = self._function, self._device, self._factories_on_cuda
        self._function, self._device, self._factories_on_cuda = function, device, on_cuda
        try:
            yield
        finally:
            self._function, self._device, self._factories_on_cuda = before

    def result_is_on_cuda(self, name: str, inputs: list[Tensor], some_on_cuda: bool) -> bool:
        """Whether the result of an operation is on the device."""
        if inputs and not (name.endswith("_like") or name.startswith("new_")):
            return some_on_cuda
        if self._device is not None:
            return self._device.type == "cuda"
        return some_on_cuda if inputs else self._factories_on_cuda

    def check(self, name: str, args: tuple[Any, ...], inputs: list[Tensor]) -> None:
        """Record what an operation on tensors of the device should not do."""
        others = [tensor for tensor in inputs if not self.is_on_cuda(tensor)]
        if others and name == "copy_":
            self.add("copies" if self.is_on_cuda(args[0]) else "waits", "copy_")
        elif others and name in INDEXING and self.is_on_cuda(args[0]) and set(others) <= set(_tensors(args[1])):
            self.add("copies", name)  # torch moves indices to the device
        elif others:
            changed = name.endswith("_") and isinstance(args[0], Tensor) and not self.is_on_cuda(args[0])
            if changed or name in NO_SCALARS or any(tensor.dim() for tensor in others):
                self.add("fails", name)
        if name == "_local_scalar_dense" and self._function in CHECKED_ON_CPU:
            return
        if name in WAITS or _reads_a_mask(name, args) or (name == "repeat_interleave" and len(inputs) > 1):
            self.add("waits", name)


class _Operations(TorchDispatchMode):
    """Follows every operation, those of the backward pass included."""

    def __init__(self, cuda: EmulatedCuda) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cuda = cuda

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        cuda, name = self.cuda, func.overloadpacket.__name__
        with torch._C.DisableTorchFunction():
            inputs = _tensors(args, kwargs)
            some_on_cuda = any(map(cuda.is_on_cuda, inputs))
            if some_on_cuda:
                cuda.check(name, args, inputs)
            made = func(*args, **kwargs)
            if cuda.result_is_on_cuda(name, inputs, some_on_cuda):
                for tensor in _tensors(made):
                    cuda.put_on_cuda(tensor)
                cuda.record.kernels += not func.is_view and not name.startswith(NO_KERNEL)
        return made


class _Functions(TorchFunctionMode):
    """Answers what Python asks of devices, and moves tensors between them."""

    def __init__(self, cuda: EmulatedCuda) -> None:
        super().__init__()
        self.cuda = cuda

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        cuda = self.cuda
        if (handler := HANDLERS.get(func)) is not None:
            return handler(cuda, func, args, kwargs)
        if func is Tensor.backward:
            kwargs["grad_tensors"] = kwargs.pop("gradient", None)
            with (
                cuda.within("backward", None, on_cuda=True),
                self,
            ):  # so that a backward pass in Python is followed as well
                return torch.autograd.backward(*args, **kwargs)
        device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        if device is not None and device.type == "cuda":
            kwargs["device"] = CPU
        on_cuda = any(map(cuda.is_on_cuda, _tensors(args, kwargs)))
        with cuda.within(func.__name__, device, on_cuda):
            made = func(*args, **kwargs)
        if func in FROM_DATA and device is not None and device.type == "cuda" and not on_cuda:
            cuda.add("copies", f"torch.{func.__name__}(..., device=...)")
            return cuda.moved(made.clone(), device)
        return made


Handler = Callable[[EmulatedCuda, Any, tuple[Any, ...], dict[str, Any]], Any]


def _get_device(cuda: EmulatedCuda, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    device = func(*args)
    return cuda.device_of(args[0]) if device.type == "cpu" else device


def _to(cuda: EmulatedCuda, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    tensor, *rest = args
    other = kwargs.pop("other", None) if not rest or not isinstance(rest[0], Tensor) else rest.pop(0)
    copy = kwargs.pop("copy", False)
    device, dtype, _, layout = torch._C._nn._parse_to(*rest, **kwargs)
    if other is not None:
        device, dtype = cuda.device_of(other), other.dtype
    here = cuda.device_of(tensor)
    moves = device is not None and device.type in ("cpu", "cuda") and device.type != here.type
    if moves:
        cuda.add("copies" if device.type == "cuda" else "waits", func.__name__)
    options = {} if layout is None else {"memory_format": layout}
    with cuda.within(func.__name__, None, on_cuda=here.type == "cuda"):
        made = tensor.to(dtype=dtype or tensor.dtype, copy=copy or moves, **options)
    return cuda.moved(made, device) if moves else made


def _to_cpu(cuda: EmulatedCuda, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return _to(cuda, func, (args[0], CPU), kwargs)


def _to_cuda(cuda: EmulatedCuda, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return _to(cuda, func, (args[0], CUDA), {key: value for key, value in kwargs.items() if key != "device"})


def _read(cuda: EmulatedCuda, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Values as Python numbers: of a tensor on the CPU, torch reads them without an operation."""
    if cuda.is_on_cuda(args[0]):
        cuda.add("waits", func.__name__)
    return func(*args, **kwargs)


def _to_numpy(cuda: EmulatedCuda, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if cuda.is_on_cuda(args[0]):
        cuda.add("fails", func.__name__)
    return func(*args, **kwargs)


def _deepcopy(cuda: EmulatedCuda, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    made: Tensor = func(*args, **kwargs)
    return cuda.moved(made, CUDA) if cuda.is_on_cuda(args[0]) else made


def _index(cuda: EmulatedCuda, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An index that is a list becomes a tensor of the device."""
    tensor, index, *values = args
    parts = index if isinstance(index, tuple) else (index,)
    if cuda.is_on_cuda(tensor) and any(isinstance(part, list) for part in parts):
        cuda.add("copies", f"{func.__name__} of a list")
        index = tuple(cuda.moved(torch.tensor(part), CUDA) if isinstance(part, list) else part for part in parts)
    with cuda.within(func.__name__, None, cuda.is_on_cuda(tensor)):
        return func(tensor, index, *values)


def _new_tensor(cuda: EmulatedCuda, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    device = torch.device(kwargs.pop("device", None) or cuda.device_of(args[0]))
    made: Tensor = func(*args, **kwargs)
    if device.type == "cuda":
        cuda.add("copies", func.__name__)
    return cuda.moved(made, device)


HANDLERS: dict[Any, Handler] = {
    Tensor.device.__get__: _get_device,
    Tensor.is_cuda.__get__: lambda cuda, func, args, kwargs: cuda.is_on_cuda(args[0]),  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda cuda, func, args, kwargs: not cuda.is_on_cuda(args[0]),  # type: ignore[attr-defined]
    Tensor.to: _to,
    Tensor.type_as: _to,
    Tensor.cpu: _to_cpu,
    Tensor.cuda: _to_cuda,
    Tensor.tolist: _read,
    Tensor.numpy: _to_numpy,
    Tensor.__array__: _to_numpy,
    Tensor.__deepcopy__: _deepcopy,
    Tensor.__getitem__: _index,
    Tensor.__setitem__: _index,
    Tensor.new_tensor: _new_tensor,
}


def _patches(cuda: EmulatedCuda) -> Iterator[Any]:
    """What of `torch.cuda` and autocast needs a driver."""
    autocast = torch.autocast.__init__

    def on_cpu(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        autocast(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    grouped = torch._C._group_tensors_by_device_and_dtype

    def by_device(lists: Any, with_indices: bool = False) -> Any:
        groups: Any = grouped(lists, with_indices)
        return {(cuda.device_of(found[0][0][0]), dtype): found for (_, dtype), found in groups.items()}

    yield mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", by_device)
    yield mock.patch.object(torch.autocast, "__init__", on_cpu)
    yield mock.patch.object(torch.cuda, "get_rng_state", return_value=torch.get_rng_state())
    yield mock.patch.object(torch.cuda, "set_rng_state")
    yield mock.patch.object(torch.cuda, "get_device_properties", return_value=PROPERTIES)
    yield mock.patch.object(torch.cuda, "synchronize", side_effect=lambda *_: cuda.add("waits", "synchronize"))


def _tensors(*values: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(*value)
        elif isinstance(value, dict):
            found += _tensors(*value.values())
    return found


def _reads_a_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an indexing operation counts the true values of a mask; one number at all of them is filled in."""
    if name not in INDEXING:
        return False
    if not any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
        return False
    return name == "index" or args[2].dim() > 0
