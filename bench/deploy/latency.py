"""Latency and memory of inference, each measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from ..errors import SpecError
from ..records import environment
from ..records.inference import Latency, Setup
from .manifest import ExportedFile
from .plain import plain
from .saved import SavedStudent

BATCHES = (1, 32)
EAGER = "eager"


def setup() -> Setup:
    """Hardware and threads of this process."""
    return Setup(environment.describe("cpu").machine, torch.get_num_threads())


def libraries(program: str) -> dict[str, str]:
    """What a program is run by, with its version."""
    name = "onnxruntime" if program.startswith("onnx") else "torch"
    return {name: version(name)}


def with_latency(student: SavedStudent, made: ExportedFile, path: Path, size: tuple[int, int]) -> ExportedFile:
    """An exported file with its latency, and that of the network in PyTorch without export.

    Args:
        student: of the file.
        made: describes the file.
        path: of the file.
        size: height and width of images, as the network was traced with; those of the run's FLOPs are timed where the
            file takes them.

    Raises:
        SpecError: a forward failed for a single image.
    """
    assert student.row.cost is not None  # of a row that is done
    programs = {} if made.format == "torch" else {made.format: path}
    if not made.quantized:
        programs = {EAGER: student.file, **programs}
    shape = next(iter(made.inputs.values()))
    timed = student.row.cost.image_size if "H" in shape else size
    figures, notes = measured(student, programs, timed, BATCHES if "N" in shape else BATCHES[:1])
    return made.model_copy(update={"latency": tuple(figures), "notes": (*made.notes, *notes)})


def measured(
    student: SavedStudent,
    programs: Mapping[str, Path],
    size: tuple[int, int],
    batches: Sequence[int],
    log: Callable[[str], None] = lambda _: None,
) -> tuple[list[Latency], list[str]]:
    """Latency of each program at each batch size, and what could not be measured, in words.

    Args:
        student: whose network runs.
        programs: their files, by name.
        size: height and width of images.
        batches: images at once.
        log: gets each figure when it is measured.

    Raises:
        SpecError: a forward failed for a single image.
    """
    figures, notes = [], []
    for program, file in programs.items():
        for batch, shapes in _inputs(student, size, batches):
            found = _measure(student, program, file, size, shapes)
            if isinstance(found, Latency):
                figures.append(found)
                name = f"{student.row.run.student}, {program}, batch {batch}"
                log(f"{name}: {found.median_ms:.2f} ms, 95th percentile {found.p95_ms:.2f} ms")
            elif batch == 1:
                raise SpecError(f"the latency of {program} cannot be measured: {found}")
            else:
                notes.append(f"The latency of {program} at batch {batch} was not measured: {found}")
    return figures, notes


def _inputs(
    student: SavedStudent, size: tuple[int, int], batches: Sequence[int]
) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    """Batch sizes with the shapes of the inputs."""
    first, *rest = (tuple(value.shape) for value in plain(student.network, student.task, size).example)
    for batch in batches:
        yield batch, [(batch, *first[1:]), *rest]


def _measure(
    student: SavedStudent, program: str, file: Path, size: tuple[int, int], shapes: Sequence[tuple[int, ...]]
) -> Latency | str:
    """What one program takes; or the last line of what it printed when it failed, such as without enough memory."""
    here = setup()
    job = {
        "results": str(student.file.parents[1].resolve()),
        "run": student.row.id,
        "program": program,
        "path": str(file.resolve()),
        "size": size,
        "shapes": shapes,
        "threads": here.threads,
    }
    command = [sys.executable, "-m", f"{__package__}.timing", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
    figures = json.loads(done.stdout.splitlines()[-1])
    return Latency(
        program=program,
        batch=shapes[0][0],
        size=size,
        machine=here.machine,
        threads=here.threads,
        libraries=libraries(program),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        **figures,
    )
