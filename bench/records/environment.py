"""The environment of a run: commit, libraries and hardware."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import distributed

from .row import Environment

LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "pycocotools", "faster-coco-eval")
OPTIONAL = ("detectron2",)


def describe(device: torch.device | str, compiled: bool | None = None) -> Environment:
    """This process and its hardware.

    Args:
        device: of its runs; a GPU that is given by name, such as "cuda:0", is not used.
        compiled: as in `Environment`; times of runs that could not be compiled are compared among themselves alone.
    """
    cpu = str(device) == "cpu"
    if isinstance(device, str) and not cpu:
        name = machine = device
    else:
        name = device_name(torch.device(device))
        machine = f"{name} x{os.cpu_count() if cpu else torch.cuda.device_count()}"
    world_size = distributed.get_world_size() if distributed.is_initialized() else 1
    return Environment(
        commit=commit(),
        python=platform.python_version(),
        libraries=dict(_installed(LIBRARIES)) | optional_libraries(),
        device=name,
        machine=shared_machine(machine, world_size) + (", not compiled" if compiled is False else ""),
        threads=torch.get_num_threads(),
        deterministic=cpu or torch.are_deterministic_algorithms_enabled(),
        world_size=world_size,
        compiled=compiled,
    )


def shared_machine(machine: str, world_size: int) -> str:
    """A machine's name in rows of runs that several of its GPUs share: their times are compared with such alone."""
    return machine if world_size == 1 else f"{machine}, {world_size} a run"


def _installed(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and version of the libraries that are installed; not every task needs all of them."""
    for name in names:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def optional_libraries() -> dict[str, str]:
    """Versions of the optional libraries that this process has imported."""
    return {name: getattr(sys.modules[name], "__version__", "unknown") for name in OPTIONAL if sys.modules.get(name)}


@cache
def commit() -> str:
    """The commit of this checkout, with a `+` when tracked files differ from it; "unknown" outside of git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: reserved on the device for CUDA, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmHWM:"):  # Linux includes the parent process in ru_maxrss
            return int(line.split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
