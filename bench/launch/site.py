"""Where jobs run: the engine of a request, with the devices, cores and memory that each job has there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..engines.base import Engine, Resources
from ..engines.local import LocalEngine
from ..engines.slurm import SlurmEngine
from ..errors import SpecError
from ..spec.request import RunRequest
from ..spec.scale import Scale
from ..tasks.loading import cores
from ..text import counted
from .devices import grouped, slots, usable

QUEUED = 100
"""Jobs in a batch system's queue at a time."""

MOST_WORKERS = 32
"""Loader processes of a job by default: more than the fastest GPU needs."""


@dataclass(frozen=True)
class Site:
    """Where the jobs of a request run.

    Attributes:
        devices: that jobs are given.
        cores: that each job has to itself; None where jobs share those of this machine.
        memory: GiB that each job has; None where it is looked up on this machine.
        address: of the Ray cluster; None for a new one.
        queued: jobs that are given to another engine at a time.
    """

    request: RunRequest
    devices: tuple[str, ...]
    cores: int | None = None
    memory: float | None = None
    address: str | None = None
    queued: int = QUEUED

    @property
    def here(self) -> bool:
        """Whether jobs run on this machine."""
        return self.request.engine == "local"

    def slots(self, scale: Scale) -> tuple[str, ...]:
        """The device of each job that runs at a time."""
        if self.here:
            return slots(self.devices, scale, self.request)
        return self.devices * self.queued

    def workers(self, scale: Scale) -> int:
        """Loader processes of each job: as many as it has cores, without the one of a job that has its own.

        Images of mini scale are small, and are prepared between the steps.
        """
        if self.request.workers is not None:
            return self.request.workers
        if scale == "mini":
            return 0
        own = max(1, cores() // len(self.slots(scale))) if self.cores is None else self.cores - 1
        return min(MOST_WORKERS, own)

    def engine(self, taken: tuple[str, ...]) -> Engine:
        """A new engine.

        Args:
            taken: its slots.
        """
        request = self.request
        if request.engine == "slurm":
            return SlurmEngine(request.results, request.slurm, taken)
        timeout = 60 * request.timeout if request.timeout else None
        if request.engine == "ray":
            from ..engines.ray import RayEngine

            return RayEngine(self.address, taken, 1 / (request.jobs or 1), timeout)
        return LocalEngine(taken, timeout)


def site_of(request: RunRequest, log: Callable[[str], None]) -> Site:
    """Where a request's jobs run, checked before any work.

    Raises:
        SpecError: a device cannot be used, or options contradict each other.
        EngineError: the engine does not take such jobs.
    """
    if request.slurm and request.engine != "slurm":
        raise SpecError("--slurm is for --engine slurm; give both, or neither")
    if request.address is not None and request.engine != "ray":
        raise SpecError("--address is for --engine ray; give both, or neither")
    if request.engine == "ray":
        return _ray_site(request, log)
    if request.engine == "slurm":
        return _slurm_site(request)
    return Site(request, grouped(usable(request.devices, log), request.gpus, log))


def _slurm_site(request: RunRequest) -> Site:
    if request.timeout:
        raise SpecError("--timeout is for --engine local and ray; give --slurm time=..., which Slurm observes")
    site = Site(
        request, _slurm_device(request), _slurm_cores(request.slurm), request.memory, queued=request.jobs or QUEUED
    )
    engine = site.engine(site.devices)
    assert isinstance(engine, SlurmEngine)
    workers = site.workers(request.scale or "full")
    engine.check(Resources(site.devices[0], site.cores or 1, workers, world_size=request.gpus))
    return site


def _ray_site(request: RunRequest, log: Callable[[str], None]) -> Site:
    """Jobs on a Ray cluster: on GPUs where a node has some, each with its share of a node.

    On the CPU a job has one core; with --jobs N, an N-th of those of the smallest node.
    """
    try:
        from ..engines import ray_cluster
    except ImportError as error:
        raise SpecError(f"--engine ray: Ray cannot be imported ({error}): pip install 'kdbench[ray]'") from error
    address = ray_cluster.find(request.address)
    if address is None:
        usable(request.devices, log)
        nodes = [ray_cluster.Node(cores(), torch.cuda.device_count())]
        log("Ray: no cluster is running here; this command starts one on this machine, which ends with it")
    else:
        ray_cluster.connect(address)
        nodes = ray_cluster.nodes()
        total = f"{sum(node.cores for node in nodes)} CPUs and {counted(sum(node.gpus for node in nodes), 'GPU')}"
        log(f"Ray: the cluster at {address} with {counted(len(nodes), 'node')}, {total}")
    devices = _queued_device(request, any(node.gpus for node in nodes))
    on_gpus = devices != ("cpu",)
    gpus, share = request.gpus, request.jobs or 1
    if on_gpus and gpus > 1 and share > 1:
        raise SpecError(f"--gpus {gpus} --jobs {share}: with --engine ray jobs share one GPU or take several; give one")
    suitable = [node for node in nodes if node.gpus >= gpus or not on_gpus]
    if not suitable:
        needed = counted(gpus, "GPU") if on_gpus else "a CPU"
        log(f"Ray: no node has {needed} now; jobs wait until one joins the cluster")
    per_job = [node.cores // (share * (node.gpus // gpus) if on_gpus else share) for node in suitable]
    own = max(1, min(per_job, default=1)) if on_gpus or request.jobs else 1
    here = sum(share * (node.gpus // gpus) if on_gpus else node.cores // own for node in suitable)
    queued = QUEUED if address else max(1, here)  # other clusters may grow
    return Site(request, devices, own, request.memory, address, queued)


def _queued_device(request: RunRequest, gpu: bool) -> tuple[str, ...]:
    """What each job sees, its own GPU as the first: where none is named, a GPU if jobs get one."""
    if request.devices is None:
        return ("cuda:0",) if gpu else ("cpu",)
    if request.devices not in (("cpu",), ("cuda",), ("cuda:0",)):
        engine, given = request.engine, ",".join(request.devices)
        raise SpecError(f"--device {given}: with --engine {engine}, cpu or cuda; {engine.capitalize()} chooses which")
    return ("cpu",) if request.devices == ("cpu",) else ("cuda:0",)


def _slurm_device(request: RunRequest) -> tuple[str, ...]:
    """A GPU where one is asked for, else the CPU."""
    wants = any(name.startswith("gpus") or (name == "gres" and "gpu" in value) for name, value in request.slurm.items())
    return _queued_device(request, wants)


def _slurm_cores(options: dict[str, str]) -> int:
    """Cores of each job; one where the user asks for none.

    Raises:
        SpecError: it is no number.
    """
    text = options.get("cpus-per-task", "1")
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise SpecError(f"--slurm cpus-per-task={text}: give a number of cores")
    return int(text)
