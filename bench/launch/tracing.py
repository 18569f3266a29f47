"""What networks and methods take of memory, traced on fake tensors: nothing is computed or allocated.

What depends on values cannot be traced and is counted by a rule: `DETECTION` for detectors' losses, `METHOD` for such a
method (CIRKD, CRD).
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from kdbench import methods
from kdbench.methods.base import Batch, Outputs, Setting

from .. import networks
from ..networks.base import Network
from ..spec.run import Run
from ..train import online_teachers as online

FLOAT = 4  # bytes of a weight, in any precision
DETECTION = 1.5  # kept with losses and regions over kept without: 1.03 to 1.47, measured on eight detectors
METHOD = 1  # times what student and teacher show; most methods that can be traced keep less
REGIONS = 512  # that a two-stage detector samples in an image


@dataclass(frozen=True)
class Shapes:
    """What the batches of a training look like."""

    task: str
    classes: int
    samples: int
    batch: int
    height: int
    width: int
    precision: str


@dataclass(frozen=True)
class Traced:
    """A network on fake tensors, and sizes in bytes.

    Attributes:
        network: itself.
        outputs: of a training forward.
        weights: parameters.
        buffers: their like that is not trained.
        passing: most at a time in a forward without gradients.
        kept: what a training forward and its losses leave for the backward, outputs included.
        flops: floating-point operations of a batch's forward.
    """

    network: Network
    outputs: Outputs
    weights: int
    buffers: int
    passing: int
    kept: int
    flops: int

    @property
    def shown(self) -> int:
        """The outputs' size in float32."""
        return sum(FLOAT * tensor.numel() for tensor in _tensors(vars(self.outputs)))


@dataclass(frozen=True)
class Loss:
    """A method's part, in bytes: `kept` for the backward, and gradients as large; `rule` says why it was not traced."""

    weights: int = 0
    buffers: int = 0
    kept: int = 0
    rule: str = ""


class UntracedError(RuntimeError):
    """A network does not know fake tensors, so nothing can be said before it runs."""


def traced(name: str, shapes: Shapes) -> Traced:
    """A network under these shapes; it is traced once, also where that fails.

    Raises:
        UntracedError: names the network and what it answered.
    """
    found = _attempted(name, shapes)
    if isinstance(found, str):
        raise UntracedError(f"{name}: {found}")
    return found


@cache
def _attempted(name: str, shapes: Shapes) -> Traced | str:
    """The network, or why it cannot be traced."""
    try:
        return _traced(name, shapes)
    except Exception as error:  # noqa: BLE001 - whatever a network that does not know fake tensors answers
        return _first_line(error)


def _traced(name: str, shapes: Shapes) -> Traced:
    with torch.device("meta"):
        network = networks.build(name, shapes.classes)
    with _fake():
        network.to_empty(device="cpu")
        images = torch.empty(shapes.batch, 3, shapes.height, shapes.width)
        with torch.no_grad(), FlopCounterMode(display=False) as flops, _Height(network) as forward:
            network.eval()(images)
        with _Height(network) as training, _autocast(shapes):
            outputs = network.train()(images)
            losses = _losses(outputs, shapes)
            kept = training.now
        del losses
        if shapes.task == "detection":
            kept = round(DETECTION * kept)
            _add_regions(name, outputs, shapes)
    weights, buffers = _size(network.parameters()), _size(network.buffers())
    return Traced(network, outputs, weights, buffers, forward.most, kept, flops.get_total_flops())


def loss_of(run: Run, shapes: Shapes) -> Loss:
    """What a run's method takes beside its networks."""
    if run.teacher_network is None:
        return Loss()
    others = len(online.teachers(run)[1:]) + len(online.copied(run))
    return _loss(run.method, json.dumps(run.options), run.student, run.teacher_network, others, shapes)


@cache
def _loss(method: str, options: str, student: str, teacher: str, others: int, shapes: Shapes) -> Loss:
    own, other = traced(student, shapes), traced(teacher, shapes)
    shown = replace(other.outputs, others=(other.outputs,) * others)
    resolved = json.loads(options)
    setting = Setting(shapes.task, shapes.classes, shapes.samples, own.network.info, other.network.info)
    try:
        with _fake():
            labels = torch.zeros(shapes.samples, dtype=torch.int64)
            known = labels if shapes.task == "classification" else None
            made = methods.build(method, replace(setting, train_targets=known, steps_per_epoch=1), **resolved).train()
            with _Height(made, own.outputs, shown) as height, _autocast(shapes):
                terms = made(_batch(shapes), own.outputs, shown)
                kept = height.now
            del terms
    except Exception as error:  # noqa: BLE001 - values decide its shapes, or it is no method for fake tensors
        bank = methods.bank_bytes(method, setting, resolved)
        kept = METHOD * (own.shown + (1 + others) * other.shown) + bank
        return Loss(0, bank, 2 * kept, _first_line(error))
    return Loss(_size(made.parameters()), _size(made.buffers()), 2 * kept)


class _Height(TorchDispatchMode):
    """Counts bytes of tensors that come to be inside, `now` and `most` at a time; those of `known` are free."""

    def __init__(self, *known: nn.Module | Outputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self.alive: dict[int, tuple[weakref.ref[Any], int]] = {}
        for one in known:
            tensors = _tensors(vars(one)) if isinstance(one, Outputs) else (*one.parameters(), *one.buffers())
            for tensor in tensors:
                self._count(tensor, free=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, made)
        return made

    def _count(self, tensor: Tensor, free: bool = False) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, 0 if free else storage.nbytes()
        if key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self._forget(key)), size
            self.now += size
            self.most = max(self.most, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self.alive.pop(key)[1]


@cache
def _fake() -> FakeTensorMode:
    """The one mode that all fake tensors share; those of two cannot meet."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def _autocast(shapes: Shapes) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=shapes.precision == "bfloat16")


def _losses(outputs: Outputs, shapes: Shapes) -> list[Tensor]:
    """The losses of the task, where they are large beside the network."""
    if shapes.task != "segmentation":
        return []
    size = (shapes.height, shapes.width)
    maps = [outputs.logits, *(value for name, value in outputs.extra.items() if name == "aux_logits")]
    upsampled = [F.interpolate(one.float(), size, mode="bilinear", align_corners=True) for one in _tensors(maps)]
    return [F.cross_entropy(one, torch.zeros(shapes.batch, *size, dtype=torch.int64)) for one in upsampled]


def _add_regions(name: str, outputs: Outputs, shapes: Shapes) -> None:
    """What a two-stage detector shows of regions, which it samples against the truth."""
    if "rcnn" not in networks.family(name):
        return
    rows, columns = REGIONS * shapes.batch, shapes.classes + 1
    outputs.extra = {
        "proposals": tuple(torch.empty(REGIONS, 4) for _ in range(shapes.batch)),
        "roi_logits": torch.empty(rows, columns, requires_grad=True),
        "roi_boxes": torch.empty(rows, 4 * columns, requires_grad=True),
    }


def _batch(shapes: Shapes) -> Batch:
    n, size = shapes.batch, (shapes.height, shapes.width)
    targets: Any = torch.zeros(n, *(size if shapes.task == "segmentation" else ()), dtype=torch.int64)
    if shapes.task == "detection":
        one = {"boxes": torch.zeros(8, 4), "labels": torch.zeros(8, dtype=torch.int64), "size": torch.tensor(size)}
        targets = [one] * n
    return Batch(torch.empty(n, 3, *size), targets, torch.zeros(n, dtype=torch.int64))


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, values)
    return found


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
