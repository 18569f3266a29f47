"""Where jobs run: the engine of a request, with the devices, cores and memory that each job has there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ..engines.base import Engine, Resources
from ..engines.local import LocalEngine
from ..engines.slurm import SlurmEngine
from ..errors import SpecError
from ..spec.request import RunRequest
from ..spec.scale import Scale
from .devices import slots, usable

QUEUED = 100
"""Jobs in a batch system's queue at a time."""


@dataclass(frozen=True)
class Site:
    """Where the jobs of a request run.

    Attributes:
        devices: that jobs are given.
        cores: that each job has to itself; None where jobs share those of this machine.
        memory: GiB that each job has; None where it is looked up on this machine.
    """

    request: RunRequest
    devices: tuple[str, ...]
    cores: int | None = None
    memory: float | None = None

    @property
    def here(self) -> bool:
        """Whether jobs run on this machine."""
        return self.request.engine == "local"

    def slots(self, scale: Scale) -> tuple[str, ...]:
        """The device of each job that runs at a time."""
        if self.here:
            return slots(self.devices, scale, self.request)
        return self.devices * (self.request.jobs or QUEUED)

    def workers(self, scale: Scale) -> int:
        """Loader processes of each job."""
        if self.request.workers is not None:
            return self.request.workers
        if scale == "mini":
            return 0
        return min(8, os.cpu_count() or 1) if self.cores is None else min(8, self.cores - 1)

    def engine(self, taken: tuple[str, ...]) -> Engine:
        """A new engine.

        Args:
            taken: its slots.
        """
        request = self.request
        if request.engine == "slurm":
            return SlurmEngine(request.results, request.slurm, taken)
        return LocalEngine(taken, 60 * request.timeout if request.timeout else None)


def site_of(request: RunRequest, log: Callable[[str], None]) -> Site:
    """Where a request's jobs run, checked before any work.

    Raises:
        SpecError: a device cannot be used, or options contradict each other.
        EngineError: the engine does not take such jobs.
    """
    if request.engine != "slurm":
        if request.slurm:
            raise SpecError("--slurm is for --engine slurm; give both, or neither")
        return Site(request, usable(request.devices, log))
    if request.timeout:
        raise SpecError("--timeout is for --engine local; give --slurm time=..., which Slurm observes")
    site = Site(request, _slurm_device(request), _slurm_cores(request.slurm), request.memory)
    engine = site.engine(site.devices)
    assert isinstance(engine, SlurmEngine)
    engine.check(Resources(site.devices[0], site.cores or 1))
    return site


def _slurm_device(request: RunRequest) -> tuple[str, ...]:
    """A GPU where one is asked for, else the CPU; each job sees its own as the first."""
    wants = any(name.startswith("gpus") or (name == "gres" and "gpu" in value) for name, value in request.slurm.items())
    if request.devices is None:
        return ("cuda:0",) if wants else ("cpu",)
    if request.devices not in (("cpu",), ("cuda",), ("cuda:0",)):
        raise SpecError(f"--device {','.join(request.devices)}: with --engine slurm, cpu or cuda; Slurm chooses which")
    return ("cpu",) if request.devices == ("cpu",) else ("cuda:0",)


def _slurm_cores(options: dict[str, str]) -> int:
    """Cores of each job; one where the user asks for none.

    Raises:
        SpecError: it is no number.
    """
    text = options.get("cpus-per-task", "1")
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise SpecError(f"--slurm cpus-per-task={text}: give a number of cores")
    return int(text)
