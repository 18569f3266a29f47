"""Devices of this machine, and how many jobs run on each."""

from __future__ import annotations

import os

import torch

from ..errors import SpecError
from ..spec.request import RunRequest
from ..spec.scale import Scale

MINI_JOBS = 4
"""Most jobs at a time on a CPU at mini scale."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable(names: tuple[str, ...] | None) -> tuple[str, ...]:
    """The devices, each tried; every CUDA device or the CPU where none is named.

    Raises:
        SpecError: one does not exist here.
    """
    names = names or tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) or ("cpu",)
    for name in names:
        try:
            torch.zeros(1, device=name)
        except (RuntimeError, AssertionError) as error:
            there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
            raise SpecError(f"--device {name}: {str(error).splitlines()[0]}; available: {there}") from error
    return names


def slots(devices: tuple[str, ...], scale: Scale, request: RunRequest) -> tuple[str, ...]:
    """The device of each job that runs at a time: a device stands there once for each of its jobs."""
    jobs = request.jobs or (min(MINI_JOBS, cores()) if scale == "mini" and devices == ("cpu",) else 1)
    return devices * jobs
