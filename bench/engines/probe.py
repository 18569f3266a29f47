"""Devices are tried in a process of their own, so that a GPU that fails takes nothing with it.

`python -m kdbench.engines.probe` prints what the GPUs that it sees are, as one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import NamedTuple

import torch

TIMEOUT = 180.0  # seconds, the import of torch included


class Probed(NamedTuple):
    """What is known about a device.

    Attributes:
        error: why it cannot be used; empty if it can.
        machine: its name and how many of its kind there are.
        free: bytes.
    """

    error: str
    machine: str = ""
    free: int = 0


@cache
def probe(device: str) -> Probed:
    """A GPU, as it was when it was first asked for."""
    try:
        return probe_now(device)
    except OSError as error:
        return Probed(f"it cannot be tried, for no process can be started: {error.strerror}")


def probe_now(device: str) -> Probed:
    """A GPU as it is now; this process does not use it.

    Raises:
        OSError: no process can be started to try it.
    """
    command, environment = [sys.executable, "-m", "kdbench.engines.probe"], os.environ | visible_alone(device)[1]
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, stdin=quiet, check=False, env=environment
        )
        return Probed(*json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Probed(f"it did not answer within {TIMEOUT:.0f} s")
    except (ValueError, IndexError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"])[-1]
        return Probed(last)


def visible_alone(device: str) -> tuple[str, dict[str, str]]:
    """A device, or several ("cuda:0,1"), as all that a process sees: the first's name, and the environment for it.

    A process creates a context on the first GPU that it sees, which would take memory of one that is not its own, and
    is refused where that is in exclusive mode.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return device, {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else []
    numbers = map(int, (index or "0").split(","))
    chosen = [names[number].strip() if number < len(names) else str(number) for number in numbers]
    return "cuda:0", {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}


def _probed() -> Probed:
    """All devices that this process sees: what is true of each."""
    from ..records.environment import describe

    device = "cuda:0"
    try:
        free = []
        for number in range(max(1, torch.cuda.device_count())):
            device = f"cuda:{number}"
            torch.zeros(1, device=device).add_(1).cpu()
            free.append(int(torch.cuda.mem_get_info(device)[0]))
        return Probed("", describe(torch.device(device)).machine, min(free))
    except Exception as error:  # noqa: BLE001 - whatever a driver raises is why the device cannot be used
        return Probed((str(error).splitlines() or [type(error).__name__])[0])


if __name__ == "__main__":
    print(json.dumps(_probed()))
