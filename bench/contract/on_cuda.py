"""The losses of a method on an emulated CUDA device: what fails on a GPU, and where a training step waits for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.methods.base import Batch, Method, Outputs, Setting

from ..text import counted
from .emulated_cuda import CUDA, EmulatedCuda
from .findings import Finding
from .samples import Sample


@dataclass(frozen=True)
class CudaStep:
    """The losses of a method and their backward pass on a GPU.

    Attributes:
        fails: operations on tensors of both devices.
        slows: where the host waits for the device in every step, or copies to it.
        kernels: operations that compute something on the device.
    """

    fails: list[Finding]
    slows: list[Finding]
    kernels: int


def cuda_step(
    build: Callable[[], Method], sample: Sample, losses: Callable[[Method, Sample], dict[str, Tensor]]
) -> CudaStep:
    """A method's second step: in the first one, what it keeps is made.

    Args:
        build: makes the method, on the CPU.
        sample: on the CPU.
        losses: of a method on a sample.
    """
    with EmulatedCuda() as cuda:
        method = build().to(CUDA)
        _move_networks(method.setting)
        sample = on_device(sample)
        fails: list[Finding] = []
        for _ in range(2):
            with cuda.recorded() as record:
                terms = list(losses(method, sample).values())
                total = torch.stack(terms).sum() if terms else None
                if total is not None and total.requires_grad:
                    total.backward()
            fails += record.fails
    return CudaStep(fails, record.slows, record.kernels)


def on_device(sample: Sample) -> Sample:
    """A sample of the emulated device; the modules of its networks are moved themselves."""
    _move_networks(sample.setting)
    return replace(
        sample, batch=_moved(sample.batch), student=_outputs(sample.student), teacher=_outputs(sample.teacher)
    )


def listed(findings: Iterable[Finding]) -> list[str]:
    """The different findings, each with how often it occurs."""
    numbers = Counter(map(str, findings))
    return [text if number == 1 else f"{text} ({counted(number, 'time')})" for text, number in numbers.items()]


def _move_networks(setting: Setting) -> None:
    for info in (setting.student, setting.teacher):
        for module in filter(None, (info.classifier, info.final_norm, *info.norms)):
            assert isinstance(module, nn.Module)
            module.to(CUDA)


def _outputs(outputs: Outputs) -> Outputs:
    moved: Outputs = _moved(outputs)
    return moved


def _moved(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(CUDA).requires_grad_(value.requires_grad)
    if isinstance(value, list | tuple):
        return type(value)(map(_moved, value))
    if isinstance(value, Outputs | Batch):
        return type(value)(**_moved(vars(value)))
    return {name: _moved(each) for name, each in value.items()} if isinstance(value, dict) else value
