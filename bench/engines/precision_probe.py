"""Whether a device trains faster in bfloat16: steps of a small network in both precisions, in turn, for a second.

`python -m kdbench.engines.precision_probe DEVICE` prints how many times as fast they are in bfloat16.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import torch
from torch import nn

from .probe import TIMEOUT, visible_alone

SECONDS = 1.0
FASTER = 1.1
"""Least speed-up for which bfloat16 is chosen: less is within what a shared machine varies by."""


def speedup(device: str) -> float:
    """How many times as fast training steps are in bfloat16 as in float32, in a process of its own.

    Raises:
        OSError: there is no answer.
    """
    seen, environment = visible_alone(device)
    command = [sys.executable, "-m", "kdbench.engines.precision_probe", seen]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=os.environ | environment
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{device} did not end 1 s of training steps within {TIMEOUT:.0f} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"])[-1]
        raise OSError(f"{device} cannot be timed: {last}")
    return float(done.stdout.splitlines()[-1])


def measured(device: torch.device, seconds: float = SECONDS) -> float:
    """The ratio of the median times of a step in float32 and in bfloat16, which alternate."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 100),
    ).to(device)
    images = torch.randn(64, 3, 32, 32, device=device)

    def step(reduced: bool) -> float:
        begin = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
            loss = network(images).float().square().mean()
        loss.backward()
        loss.item()  # waits for the device
        return time.perf_counter() - begin

    for reduced in (False, True, False, True):  # kernels are chosen in the first steps
        step(reduced)
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < 3 or time.perf_counter() < end:
        pairs.append((step(False), step(True)))
    return statistics.median(full for full, _ in pairs) / statistics.median(reduced for _, reduced in pairs)


if __name__ == "__main__":
    print(measured(torch.device(sys.argv[1])))
