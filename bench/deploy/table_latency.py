"""Measures inference with the students of finished runs, each network once; tables show it for all runs of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import CheckpointError, SpecError
from ..records.inference import Inference, Latency, Network, add_inference, all_inference
from ..records.row import Row
from ..report.cells import collect
from ..report.own_data import own_tables
from ..spec.scale import Scale
from ..spec.table import Table
from ..tasks.base import Task
from ..text import counted
from . import formats, quantize
from .checking import TOLERANCE
from .export import write_checked
from .latency import BATCHES, EAGER, libraries, measured, setup
from .manifest import ExportedFile
from .saved import DataPlace, SavedStudent, find_student, open_task

Log = Callable[[str], None]
ONNX = formats.FORMATS["onnx"]
NOT_NEEDED = "latency needs no data"


@dataclass(frozen=True)
class LatencyRequest:
    """What is measured.

    Attributes:
        results: folder of runs.
        data: where data sets are, for int8.
        scale: None for both.
        int8: score each run's student as a quantized ONNX file, too, and time one of each network.
    """

    results: Path
    data: DataPlace
    scale: Scale | None = None
    int8: bool = False


def measure_tables(request: LatencyRequest, tables: Sequence[Table], rows: Sequence[Row], log: Log) -> bool:
    """Measure every network of tables' runs that was not measured on this machine with these threads and libraries.

    Args:
        request: what is measured.
        tables: whose finished runs count, with what requests added; none for every run.
        rows: of the folder.
        log: receives what is done, and what cannot be.

    Returns:
        Whether everything could be measured.

    Raises:
        SpecError: no run is finished.
        StoreError: the folder cannot be written.
    """
    chosen = runs_of(tables, rows, request.scale)
    if not chosen:
        of = f" of {', '.join(table.name for table in tables)}" if tables else ""
        raise SpecError(f"no run{of} is finished in {request.results}; `kdbench runs` lists them")
    missing = [] if (reason := _uninstalled()) is None else [reason]
    found, invalid = all_inference(request.results, chosen)
    for each in invalid:
        log(f"is measured again: {each.path}: {each.reason}")
    networks: dict[Network, list[Row]] = {}
    for row in chosen:
        networks.setdefault(Network.of(row), []).append(row)
    threads = counted(setup().threads, "CPU thread")
    log(f"{counted(len(networks), 'network')} of {counted(len(chosen), 'run')}; {threads}")
    for network, same in networks.items():
        known = [each.latency for row, each in found if Network.of(row) == network]
        if not _is_known([figure for figures in known for figure in figures], network, not missing):
            missing += _first(same, request.results, lambda student: _time(student, request.results, log))
        else:
            log(f"{network.student}: is measured already")
    if request.int8:
        missing += _quantize_all(request, chosen, {row.id: each for row, each in found}, log)
    for line in missing:
        log(f"not measured: {line}")
    return not missing


def runs_of(tables: Sequence[Table], rows: Sequence[Row], scale: Scale | None) -> list[Row]:
    """The finished runs that tables show, or all, the latest first; of a scale, if one is given."""
    found = {row.id: row for row in rows}
    if tables:
        shown = [each for table in tables for each in (table, *own_tables(table, rows))]
        scales: tuple[Scale, ...] = ("full", "mini")
        cells = [cell for each in shown for chosen in scales for cell in collect(each, rows, chosen)]
        found = {row.id: row for cell in cells for row in cell.rows}
    done = [row for row in found.values() if row.status == "done" and scale in (None, row.run.scale)]
    return sorted(done, key=lambda row: row.finished, reverse=True)


def _uninstalled() -> str | None:
    """Why ONNX is left out; None where it is not."""
    try:
        ONNX.check_installed()
    except SpecError as error:
        return f"ONNX: {error}"
    return None


def _is_known(figures: Iterable[Latency], network: Network, onnx: bool) -> bool:
    """Whether PyTorch, and ONNX Runtime if it is here, were timed with this setup and these versions."""
    here = setup()
    programs = {
        each.program
        for each in figures
        if (each.setup, each.size, each.libraries) == (here, network.size, libraries(each.program))
    }
    return programs >= ({EAGER, ONNX.name} if onnx else {EAGER})


def _first(rows: Iterable[Row], results: Path, function: Callable[[SavedStudent], list[str]]) -> list[str]:
    """What a function says of the first of some runs whose weights are there; else why none of them can be used."""
    reasons = []
    for row in rows:
        try:
            return function(find_student(results, row.id))
        except (SpecError, CheckpointError) as error:
            reasons.append(f"{row.run.student}: {error}")
    return reasons


def _time(student: SavedStudent, results: Path, log: Log) -> list[str]:
    """Time a student's network and keep the figures beside its row; returns what could not be measured."""
    row = student.row
    assert row.cost is not None  # it is done
    size, problems = row.cost.image_size, []
    with tempfile.TemporaryDirectory(prefix="kdbench-latency-") as temporary:
        programs, sizes = {EAGER: student.file}, {"torch": student.file.stat().st_size}
        if _uninstalled() is None:
            try:
                made = write_checked(student, ONNX, NOT_NEEDED, Path(temporary), TOLERANCE)
            except (SpecError, CheckpointError) as error:
                problems.append(f"{row.run.student} as ONNX: {error}")
            else:
                programs[ONNX.name], sizes[ONNX.name] = Path(temporary) / made.file, made.bytes
        figures, notes = measured(student, programs, size, _batches(student), log)
    add_inference(results / row.id, row, figures, sizes)
    return problems + notes


def _batches(student: SavedStudent) -> Sequence[int]:
    return BATCHES[:1] if student.task == "detection" else BATCHES


def _quantize_all(request: LatencyRequest, rows: Sequence[Row], known: dict[str, Inference], log: Log) -> list[str]:
    """Score the int8 students of runs that have no such score; returns what could not be measured."""
    if (reason := _uninstalled()) is not None:
        return [f"int8: {reason}"]
    problems: list[str] = []
    timed = {Network.of(row) for row in rows if row.id in known and _has_int8(known[row.id])}
    for row in rows:
        if row.id in known and known[row.id].int8:
            continue
        quantized = partial(_quantize, request=request, timing=Network.of(row) not in timed, log=log)
        failed = _first([row], request.results, quantized)
        problems += failed
        if not failed:
            timed.add(Network.of(row))
    return problems


def _has_int8(found: Inference) -> bool:
    return any(each.program == quantize.NAME and each.setup == setup() for each in found.latency)


def _quantize(student: SavedStudent, request: LatencyRequest, timing: bool, log: Log) -> list[str]:
    """Quantize and score a student, and time it; what is found is kept beside its row."""
    task = open_task(student, request.data)
    if not isinstance(task, Task):
        return [f"int8 of {student.title}: {task}"]
    row = student.row
    assert row.cost is not None  # it is done
    with tempfile.TemporaryDirectory(prefix="kdbench-latency-") as temporary:
        folder = Path(temporary)
        made = write_checked(student, ONNX, NOT_NEEDED, folder, TOLERANCE)
        small: ExportedFile = quantize.quantized(student, task, made, folder)
        programs = {quantize.NAME: folder / small.file} if timing else {}
        figures, notes = measured(student, programs, row.cost.image_size, _batches(student))
    sizes = {ONNX.name: made.bytes, quantize.NAME: small.bytes}
    add_inference(request.results / row.id, row, figures, sizes, quantize.score(small))
    log(f"{student.title}: {small.quantized}")
    return notes
