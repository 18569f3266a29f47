"""What inference with a run's student takes: `inference.json` beside its row, written by `kdbench latency` and exports.

Latency and memory are of a network and a machine, whatever the weights, so that tables show them for every run of the
network; the score of a quantized student is of its run alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from .history import Percent, Record
from .record_file import read_record, write_record
from .row import Count, Row, Sha256
from .row_file import InvalidRow

FILE = "inference.json"


class Setup(NamedTuple):
    """What latency is comparable within: hardware and CPU threads."""

    machine: str
    threads: int


class Latency(Record):
    """Time of a forward on the CPU, in a process of its own, without preprocessing."""

    program: str = Field(description='What ran it: "eager" for PyTorch without export, or the format.')
    batch: int = Field(ge=1, description="Images at once.")
    size: tuple[Count, Count] = Field(description="Height and width of the images, pixels, without padding.")
    median_ms: float = Field(ge=0)
    p95_ms: float = Field(ge=0, description="95th percentile.")
    runs: int = Field(ge=1, description="How many forwards were timed.")
    peak_memory: Count | None = Field(
        description="By how much loading and running the network raised the peak of resident memory, bytes; None where "
        "the system does not say."
    )
    machine: str
    threads: int = Field(ge=1, description="Of the CPU.")
    libraries: dict[str, str] = Field(description="Versions of torch, or of what ran the exported file.")
    measured: str = Field(description="UTC, ISO 8601.")

    @property
    def setup(self) -> Setup:
        return Setup(self.machine, self.threads)


class Quantized(Record):
    """The score of an int8 student."""

    metric: str
    score: Percent
    threads: int = Field(ge=1, description="Of the CPU that evaluated it.")
    machine: str


class Inference(Record):
    """Inference with the student of a run."""

    schema_version: int = 1
    run: str
    student: Sha256 = Field(description="Of the student's file.")
    latency: tuple[Latency, ...] = ()
    bytes: dict[str, Count] = Field(default={}, description="Sizes of the student's files by format.")
    int8: Quantized | None = None


class Network(NamedTuple):
    """What latency is of: a network as it is used for inference, with a method's head where it keeps one."""

    task: str
    student: str
    classes: int
    params: int
    flops: float
    size: tuple[int, int]

    @classmethod
    def of(cls, row: Row) -> Network:
        """The student of a row that is done."""
        cost, run = row.cost, row.run
        assert cost is not None
        return cls(run.task, run.student, run.data.classes, cost.params, cost.flops, cost.image_size)


def read_inference(folder: Path, row: Row) -> Inference | InvalidRow | None:
    """What was measured of the student in a run's folder; None where nothing was."""
    if row.status != "done" or not os.path.lexists(folder / FILE):
        return None
    found = read_record(folder / FILE, Inference)
    if isinstance(found, Inference):
        assert row.student is not None  # it is done
        if (found.run, found.student) != (row.id, row.student.sha256):
            return InvalidRow(folder / FILE, "student: is not the one that the row beside it was measured of")
    return found


def add_inference(
    folder: Path,
    row: Row,
    latency: Iterable[Latency] = (),
    sizes: Mapping[str, int] | None = None,
    int8: Quantized | None = None,
) -> Path:
    """Keep measurements beside a row, in place of earlier ones of the same program, batch, size and setup.

    A damaged file is written anew.

    Raises:
        StoreError: the folder cannot be written or the disk is full.
    """
    assert row.student is not None  # of a row that is done
    found = read_inference(folder, row)
    before = found if isinstance(found, Inference) else Inference(run=row.id, student=row.student.sha256)
    kept = {(each.program, each.batch, each.size, each.setup): each for each in (*before.latency, *latency)}
    after = before.model_copy(
        update={
            "latency": tuple(kept.values()),
            "bytes": {**before.bytes, **(sizes or {})},
            "int8": int8 or before.int8,
        }
    )
    write_record(folder / FILE, after)
    return folder / FILE


def all_inference(results: Path, rows: Iterable[Row]) -> tuple[list[tuple[Row, Inference]], list[InvalidRow]]:
    """What was measured of the students in a folder of runs, each with its row, and files that are damaged."""
    read = [(row, read_inference(results / row.id, row)) for row in rows]
    found = [(row, each) for row, each in read if isinstance(each, Inference)]
    return found, [each for _, each in read if isinstance(each, InvalidRow)]
