"""The memory and work of networks and methods, traced on fake tensors: nothing is computed or allocated.

What depends on values cannot be traced and is counted by a rule: `Task.loss_memory` for detectors' losses, `METHOD` for
such a method (CIRKD, CRD).
"""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from kdbench import methods
from kdbench.methods.base import Batch, Method, Outputs, Setting

from .. import networks, tasks
from ..networks.base import Network
from ..spec.run import Run
from ..tasks.base import Shapes
from ..train import online_teachers as online

FLOAT = 4  # bytes of a weight, in any precision
METHOD = 1  # times the outputs of student and teacher; most methods that can be traced keep less
REGIONS = 512  # that a two-stage detector samples in an image


@dataclass(frozen=True)
class Traced:
    """A network on fake tensors, and sizes in bytes.

    Attributes:
        network: the module.
        outputs: of a training forward.
        weights: parameters.
        buffers: tensors that are not trained.
        forward: peak of a forward without gradients.
        saved: what a training forward and its losses save for the backward, outputs included.
        flops: floating-point operations of a batch's forward.
        kernels: operations of a training forward and its losses that compute something: views do not.
        written: bytes that these write.
    """

    network: Network
    outputs: Outputs
    weights: int
    buffers: int
    forward: int
    saved: int
    flops: int
    kernels: int = 0
    written: int = 0

    @property
    def output_bytes(self) -> int:
        """The outputs' size in float32."""
        return sum(FLOAT * tensor.numel() for tensor in _tensors(vars(self.outputs)))


@dataclass(frozen=True)
class Loss:
    """A method's memory in bytes: `saved` for the backward and its gradients; `rule` says why it was not traced.

    `prepares` says that it reads the teacher's outputs of whole batches before the training. `kernels` and `written`
    are as in `Traced`, 0 where it was not traced. `views` are further forwards of student and teacher.
    """

    weights: int = 0
    buffers: int = 0
    saved: int = 0
    rule: str = ""
    prepares: bool = False
    kernels: int = 0
    written: int = 0
    views: int = 0


class UntracedError(RuntimeError):
    """A network does not support fake tensors, so its memory is unknown before it runs."""


def traced(name: str, shapes: Shapes) -> Traced:
    """A network under these shapes; it is traced once, also where that fails.

    Raises:
        UntracedError: names the network and the error.
    """
    result = _attempted(name, shapes)
    if isinstance(result, str):
        raise UntracedError(f"{name}: {result}")
    return result


@cache
def _attempted(name: str, shapes: Shapes) -> Traced | str:
    """The network, or why it cannot be traced."""
    try:
        return _traced(name, shapes)
    except Exception as error:  # noqa: BLE001 - a network without support for fake tensors raises anything
        return _first_line(error)


def _traced(name: str, shapes: Shapes) -> Traced:
    task = tasks.get(shapes.task)
    with torch.device("meta"):
        network = networks.build(name, shapes.classes)
    with _fake():
        network.to_empty(device="cpu")
        images = torch.empty(shapes.batch, 3, shapes.height, shapes.width)
        with torch.no_grad(), FlopCounterMode(display=False) as flops, _PeakBytes(network) as forward:
            network.eval()(images)
        with _PeakBytes(network) as training, _autocast(shapes):
            outputs = network.train()(images)
            losses = task.example_losses(outputs, shapes)
            saved = round(task.loss_memory * training.current)
        del losses
        _add_regions(name, outputs, shapes)
    weights, buffers = _size(network.parameters()), _size(network.buffers())
    work = flops.get_total_flops(), training.kernels, training.written
    return Traced(network, outputs, weights, buffers, forward.peak, saved, *work)


def loss_of(run: Run, shapes: Shapes) -> Loss:
    """The memory of a run's method."""
    teacher = run.teacher_network or run.student
    others = len(online.teacher_names(run)[1:]) + len(online.snapshot_names(run))
    return _loss(run.method, json.dumps(run.options), run.student, teacher, others, shapes)


@cache
def _loss(method: str, options: str, student: str, teacher: str, others: int, shapes: Shapes) -> Loss:
    learner, frozen = traced(student, shapes), traced(teacher, shapes)
    views = methods.views(method)
    student_outputs = replace(learner.outputs, views=dict.fromkeys(views, learner.outputs))
    teacher_views = dict.fromkeys(views, frozen.outputs)
    teacher_outputs = replace(frozen.outputs, others=(frozen.outputs,) * others, views=teacher_views)
    resolved = json.loads(options)
    setting = Setting(shapes.task, shapes.classes, shapes.samples, learner.network.info, frozen.network.info)
    setting = replace(setting, new_student=partial(networks.build, student, shapes.classes))
    prepares = False
    try:
        with _fake():
            labels = tasks.get(shapes.task).example_setting(shapes.samples, shapes.classes).train_targets
            setting = replace(setting, train_targets=labels, steps_per_epoch=1, epochs=1, batch_size=shapes.batch)
            made = methods.build(method, setting, **resolved).train()
            prepares = any(type(m).prepare is not Method.prepare for m in made.modules() if isinstance(m, Method))
            with _PeakBytes(made, learner.outputs, frozen.outputs) as peak, _autocast(shapes):
                terms = made(_batch(shapes, views), student_outputs, teacher_outputs)
                saved = peak.current
            del terms
    except Exception as error:  # noqa: BLE001 - values decide its shapes, or it is no method for fake tensors
        bank = methods.bank_bytes(method, setting, resolved)
        saved = METHOD * (learner.output_bytes + (1 + others) * frozen.output_bytes) + bank
        return Loss(0, bank, 2 * saved, _first_line(error), prepares, views=len(views))
    sizes = _size(made.parameters()), _size(made.buffers())
    work = {"kernels": peak.kernels, "written": peak.written}
    return Loss(*sizes, 2 * saved, prepares=prepares, views=len(views), **work)


class _PeakBytes(TorchDispatchMode):
    """Counts bytes of tensors that are made inside, `current` and `peak`; those of `known` are free.

    `kernels` and `written` count the operations that are no views, and the bytes of what they return.
    """

    def __init__(self, *known: nn.Module | Outputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = self.peak = self.kernels = self.written = 0
        self.alive: dict[int, tuple[weakref.ref[Any], int]] = {}
        for part in known:
            tensors = _tensors(vars(part)) if isinstance(part, Outputs) else (*part.parameters(), *part.buffers())
            for tensor in tensors:
                self._count(tensor, free=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, made)
        if func.namespace == "aten" and not func.is_view and not func.__name__.startswith("empty"):
            self.kernels += 1
            self.written += _size(_tensors(made))
        return made

    def _count(self, tensor: Tensor, free: bool = False) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, 0 if free else storage.nbytes()
        if key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self._forget(key)), size
            self.current += size
            self.peak = max(self.peak, self.current)

    def _forget(self, key: int) -> None:
        self.current -= self.alive.pop(key)[1]


@cache
def _fake() -> FakeTensorMode:
    """The mode that all fake tensors share: tensors of two modes cannot be combined.

    What it cannot run is told by the exception; torch would print its traceback as well.
    """
    logging.getLogger(FakeTensorMode.__module__).setLevel(logging.CRITICAL)
    return FakeTensorMode(allow_non_fake_inputs=True)


def _autocast(shapes: Shapes) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=shapes.precision == "bfloat16")


def _add_regions(name: str, outputs: Outputs, shapes: Shapes) -> None:
    """The region outputs of a two-stage detector, which it samples against the ground truth."""
    if "rcnn" not in networks.family(name):
        return
    rows, columns = REGIONS * shapes.batch, shapes.classes + 1
    outputs.extra = {
        "proposals": tuple(torch.empty(REGIONS, 4) for _ in range(shapes.batch)),
        "roi_logits": torch.empty(rows, columns, requires_grad=True),
        "roi_boxes": torch.empty(rows, 4 * columns, requires_grad=True),
    }


def _batch(shapes: Shapes, views: Iterable[str]) -> Batch:
    targets = tasks.get(shapes.task).example_targets(shapes)
    index = torch.zeros(shapes.batch, dtype=torch.int64)
    batch = Batch(torch.empty(shapes.batch, 3, *shapes.size), targets, index)
    return replace(batch, views=dict.fromkeys(views, batch))


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(values: Any) -> list[Tensor]:
    tensors: list[Tensor] = []
    tree_map_only(Tensor, tensors.append, values)
    return tensors


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
