"""Times the forward of a saved student or of an exported file: `python -m kdbench.deploy.timing JOB` prints JSON."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from ..report.added import register_files
from .formats import FORMATS, Function, get
from .plain import plain
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
    before = _peak()
    function = _function(student, job["program"], Path(job["path"]), size)
    inputs = _inputs(student, size, job["batch"])
    seconds = timed(function, inputs)
    figures = {
        "median_ms": 1e3 * statistics.median(seconds),
        "p95_ms": 1e3 * sorted(seconds)[max(0, -(-95 * len(seconds) // 100) - 1)],
        "runs": len(seconds),
        "peak_memory": _peak() - before,
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


def _inputs(student: SavedStudent, size: tuple[int, int], batch: int) -> tuple[Tensor, ...]:
    """Random inputs of the sizes that the network is traced with."""
    images, *rest = plain(student.network, student.task, size).example
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *images.shape[1:], generator=generator), *rest


def _peak() -> int:
    """Peak resident memory of this process, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
