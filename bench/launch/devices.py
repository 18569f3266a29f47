"""Devices of this machine, and how many jobs run on each."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..engines.probe import probe
from ..errors import SpecError
from ..records import environment
from ..spec.request import RunRequest
from ..spec.scale import Scale
from ..tasks.loading import cores

MINI_JOBS = 4
"""Most jobs at a time on a CPU at mini scale."""


def usable(names: tuple[str, ...] | None, log: Callable[[str], None] = lambda _: None) -> tuple[str, ...]:
    """The devices that can be used; every CUDA device or the CPU where none is named.

    Each is tried in a process of its own. One that fails is left out and logged where others can be used.

    Raises:
        SpecError: one does not exist here, or none can be used.
    """
    names = names or tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) or ("cpu",)
    there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
    for name in names:
        try:
            kind = torch.device(name).type
        except RuntimeError as error:
            raise SpecError(f"--device {name}: {str(error).splitlines()[0]}; available: {there}") from error
        if kind not in ("cpu", "cuda"):
            raise SpecError(f"--device {name}: is no CPU and no CUDA device; available: {there}")
    errors = {name: probe(name).error for name in dict.fromkeys(names) if name != "cpu"}
    good = tuple(name for name in names if not errors.get(name))
    for name, reason in errors.items():
        if reason and not good:
            raise SpecError(f"--device {name}: {reason}; available: {there}")
        if reason:
            log(f"{name} cannot be used and is left out: {reason}")
    return good


def grouped(devices: tuple[str, ...], gpus: int, log: Callable[[str], None]) -> tuple[str, ...]:
    """What each job gets where it needs several GPUs: "cuda:0,1" for the first two of them.

    Raises:
        SpecError: there are not so many.
    """
    if gpus == 1 or devices == ("cpu",):
        return devices
    numbers = [device.partition(":")[2] or "0" for device in devices]
    if "cpu" in devices or len(set(numbers)) < gpus:
        raise SpecError(f"--gpus {gpus}: {', '.join(devices)} can be used here; give as many, or fewer with --gpus")
    if rest := len(numbers) % gpus:
        log(f"--gpus {gpus}: {', '.join(devices[-rest:])} stay idle")
    return tuple(f"cuda:{','.join(numbers[i : i + gpus])}" for i in range(0, len(numbers) - rest, gpus))


def machine(device: str) -> str:
    """The name of a device's machine, as rows have it."""
    return environment.describe(torch.device("cpu")).machine if device == "cpu" else probe(device).machine


def slots(devices: tuple[str, ...], scale: Scale, request: RunRequest) -> tuple[str, ...]:
    """The device of each job that runs at a time: a device stands there once for each of its jobs."""
    jobs = request.jobs or (min(MINI_JOBS, cores()) if scale == "mini" and devices == ("cpu",) else 1)
    return devices * jobs
