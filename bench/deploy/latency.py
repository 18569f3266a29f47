"""Latency and memory of inference, each measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import SpecError
from .manifest import ExportedFile, Latency
from .plain import plain
from .saved import SavedStudent

BATCHES = (1, 32)


def with_latency(student: SavedStudent, made: ExportedFile, path: Path, size: tuple[int, int]) -> ExportedFile:
    """An exported file with its latency, and that of the network in PyTorch without export.

    Args:
        student: of the file.
        made: describes the file.
        path: of the file.
        size: height and width of images, as the network was traced with.

    Raises:
        SpecError: a forward failed for a single image.
    """
    programs = {} if made.format == "torch" else {made.format: path}
    if not made.quantized:
        programs = {"eager": student.file, **programs}
    example = [tuple(value.shape) for value in plain(student.network, student.task, size).example]
    batches = BATCHES if "N" in next(iter(made.inputs.values())) else BATCHES[:1]
    figures, notes = [], []
    for program, file in programs.items():
        for batch in batches:
            shapes = [(batch, *example[0][1:]), *example[1:]]
            found = _measure(student, program, file, size, shapes)
            if isinstance(found, Latency):
                figures.append(found)
            elif batch == 1:
                raise SpecError(f"--latency: {program} failed: {found}")
            else:
                notes.append(f"The latency of {program} at batch {batch} was not measured: {found}")
    return made.model_copy(update={"latency": tuple(figures), "notes": (*made.notes, *notes)})


def _measure(
    student: SavedStudent, program: str, file: Path, size: tuple[int, int], shapes: Sequence[tuple[int, ...]]
) -> Latency | str:
    """What one program takes; or the last line of what it printed when it failed, such as without enough memory."""
    job = {
        "results": str(student.file.parents[1].resolve()),
        "run": student.row.id,
        "program": program,
        "path": str(file.resolve()),
        "size": size,
        "shapes": shapes,
        "threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-m", f"{__package__}.timing", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
    figures = json.loads(done.stdout.splitlines()[-1])
    return Latency(program=program, batch=shapes[0][0], threads=torch.get_num_threads(), **figures)
