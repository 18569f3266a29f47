"""Times the forward of a saved student or of an exported file: `python -m kdbench.deploy.timing JOB` prints JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from ..report.added import register_files
from .formats import FORMATS, Function, get
from .saved import SavedStudent, find_student

WARM_UP, MOST, LEAST, SECONDS = 3, 100, 5, 5.0
"""Forwards that are not timed, most and least timed ones, and the time after which no further one begins."""


def main() -> None:
    """Read the job, time it, print what `latency.measured` reads."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    results = Path(job["results"])
    register_files(results, lambda _: None)
    student, size = find_student(results, job["run"]), tuple(job["size"])
    inputs = _inputs(job["shapes"], size)
    before = _resident("VmRSS", reset=True)
    function = _function(student, job["program"], Path(job["path"]), size)
    seconds = timed(function, inputs)
    figures = {
        "median_ms": 1e3 * statistics.median(seconds),
        "p95_ms": 1e3 * sorted(seconds)[max(0, -(-95 * len(seconds) // 100) - 1)],
        "runs": len(seconds),
        "peak_memory": None if before is None else max(0, (_resident("VmHWM") or 0) - before),
    }
    print(json.dumps(figures))


def timed(function: Function, inputs: tuple[Tensor, ...]) -> list[float]:
    """Seconds of several forwards, the first ones left out."""
    for _ in range(WARM_UP):
        function(*inputs)
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < LEAST or (len(seconds) < MOST and time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        function(*inputs)
        seconds.append(time.perf_counter() - start)
    return seconds


def _function(student: SavedStudent, program: str, path: Path, size: tuple[int, int]) -> Function:
    if program == "eager":
        return FORMATS["torch"].read(path, student, size)
    return get(program.removesuffix("-int8")).read(path, student, size)


def _inputs(shapes: list[list[int]], size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Random images, and for detectors the size of the image without padding."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shapes[0], generator=generator)
    return (images,) if len(shapes) == 1 else (images, torch.tensor(size))


def _resident(line: str, reset: bool = False) -> int | None:
    """Resident memory of this process, bytes: VmRSS now or VmHWM at its peak; None where the system does not say.

    Args:
        line: of /proc/self/status.
        reset: restart the peak.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    kibibytes = next(each.split()[1] for each in status.read_text().splitlines() if each.startswith(f"{line}:"))
    return 1024 * int(kibibytes)


if __name__ == "__main__":
    main()
