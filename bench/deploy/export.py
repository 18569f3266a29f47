"""Exports a student: the file is written, read again and checked, and described for people and programs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench import datasets

from ..errors import StoreError
from ..records import checkpoint as checkpoints
from ..records.atomic import write_atomically, writing
from ..records.by_name import link_name
from ..records.inference import add_inference
from ..records.row import Row
from ..records.store import read_rows
from ..spec.table import Table
from ..tasks.base import Task
from ..text import counted
from . import card, formats, manifest, quantize
from .checking import TOLERANCE, MismatchError, check
from .formats import Format
from .latency import with_latency
from .licences import licence_note
from .manifest import ExportedFile, Manifest
from .out import check_free, check_out
from .plain import plain
from .preprocessing import Preprocessing, preprocessing
from .saved import DataPlace, SavedStudent, find_student, open_task
from .verdicts import table_lines

Log = Callable[[str], None]
EXPORTS = Path("results/exports")


@dataclass(frozen=True)
class ExportRequest:
    """Options of an export.

    Attributes:
        run: the run's hash, or its first digits.
        format: one of `formats.FORMATS`.
        results: folder of runs.
        data: where data sets are.
        out: folder of the export; None for one named after the run below `EXPORTS`.
        latency: measure the time of a forward.
        int8: also write a quantized file; of ONNX.
        tolerance: percentage points by which the file's metric may differ from the network's.
    """

    run: str
    format: str
    results: Path
    data: DataPlace
    out: Path | None = None
    latency: bool = False
    int8: bool = False
    tolerance: float = TOLERANCE


def export(request: ExportRequest, tables: Sequence[Table], log: Log = lambda _: None) -> list[Path]:
    """Write a student's file, its description and its model card; returns their paths.

    Args:
        request: what to export.
        tables: that the run may be a part of, with what requests added.
        log: receives what is done.

    Raises:
        SpecError: an option is wrong, the run is not done, or its network cannot be exported in this format.
        CheckpointError: the weights are missing or damaged, or the file computes something else than the network.
        StoreError: the folder cannot be written.
    """
    form = formats.get(request.format)
    student = find_student(request.results, request.run)
    folder = request.out or EXPORTS / link_name(student.title, student.row.id)
    check_out(folder)
    earlier = manifest.read_files(folder, student.row.id)
    check_free(folder, (card.FILE, quantize.FILE, *(each.file for each in formats.FORMATS.values())), manifest.FILE)
    task = open_task(student, request.data)
    if request.int8:
        quantize.check_possible(form.name, task)
    images = preprocessing(student, task)
    log(_announcement(student, form, task))
    described = _describe(student, images, tables, read_rows([request.results])[0])
    described = described.model_copy(update={"files": earlier})
    with writing(folder, "--out"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            made = write_checked(student, form, task, Path(temporary), request.tolerance)
            files = [made]
            if request.int8:
                assert isinstance(task, Task)
                files.append(quantize.quantized(student, task, made, Path(temporary)))
            if request.latency:
                size = trace_size(student, task)
                files = [with_latency(student, each, Path(temporary) / each.file, size) for each in files]
            folder.mkdir(exist_ok=True)
            for file in files:
                (Path(temporary) / file.file).replace(folder / file.file)
                described = described.with_file(file)
    _keep(student, files, request.results, log)
    write_atomically(folder / card.FILE, card.model_card(described).encode())
    described_in = manifest.write_manifest(folder, described)
    return [*(folder / file.file for file in files), described_in, folder / card.FILE]


def _keep(student: SavedStudent, files: Sequence[ExportedFile], results: Path, log: Log) -> None:
    """Keep what inference takes beside the row, where tables find it; a folder that is read-only is logged."""
    latency = [each for file in files for each in file.latency]
    int8 = next((quantize.score(file) for file in files if file.quantized), None)
    if not latency and int8 is None:
        return
    sizes = {file.format: file.bytes for file in files} | {"torch": student.file.stat().st_size}
    try:
        log(str(add_inference(results / student.row.id, student.row, latency, sizes, int8)))
    except StoreError as error:
        log(f"tables will not show these figures: {error}")


def _announcement(student: SavedStudent, form: Format, task: Task | str) -> str:
    name = f"{student.row.run.student} of run {student.row.id} as {form.title}"
    if isinstance(task, Task):
        return f"{name}; measured again on {counted(len(task.data.val), 'validation image')}"
    return f"{name}; its metric is not measured again: {task}"


def write_checked(
    student: SavedStudent, form: Format, task: Task | str, folder: Path, tolerance: float
) -> ExportedFile:
    """Write a file that computes what the network does; of segmenters for any size of images where that is possible."""
    size = trace_size(student, task)
    path = folder / form.file
    notes: tuple[str, ...] = ()
    network = plain(student.network, student.task, size)
    form.check_traceable(network, student.row.run.student)
    form.write(network, student, path)
    function = form.read(path, student, size)
    try:
        found = check(network, student.network, function, task, student.metrics.last, tolerance)
    except MismatchError as error:
        if student.task != "segmentation":
            raise
        # Of networks that pool maps to a given number of cells the graph may hold for one size alone.
        network = plain(student.network, student.task, size, any_size=False)
        form.write(network, student, path)
        function = form.read(path, student, size)
        found = check(network, student.network, function, task, student.metrics.last, tolerance)
        notes = (f"The {form.name} file takes images of one size alone: for others {error}",)
    return ExportedFile(
        format=form.name,
        file=form.file,
        bytes=path.stat().st_size,
        sha256=checkpoints.sha256(path),
        inputs=network.inputs,
        outputs=network.outputs,
        check=found,
        notes=notes,
    )


def trace_size(student: SavedStudent, task: Task | str) -> tuple[int, int]:
    """Height and width of the images that a network is traced with: a segmenter's first validation image."""
    assert student.row.cost is not None  # of a row that is done
    if student.task == "segmentation" and isinstance(task, Task):
        width, height = task.data.val.size(0)
        return height, width
    height, width = student.row.cost.image_size
    return height, width


def _describe(student: SavedStudent, images: Preprocessing, tables: Sequence[Table], rows: Sequence[Row]) -> Manifest:
    row, run = student.row, student.row.run
    assert row.cost is not None  # of a row that is done
    teacher = row.teacher
    is_own = run.data.name not in datasets.names()
    return Manifest(
        run=row.id,
        name=student.title,
        task=run.task,
        network=run.student,
        method=run.method,
        options=run.options,
        teacher=f"{teacher.network}, {teacher.measured:.2f} % measured" if teacher else "",
        scale=run.scale,
        data=f"{run.data.display_name} ({run.data.fingerprint})",
        train_images=run.data.train_images,
        val_images=run.data.val_images,
        recipe=run.recipe.name,
        classes=student.classes,
        metrics=student.metrics.last,
        verdicts=table_lines(row, tables, rows),
        preprocessing=tuple(images.steps()),
        images=images.model_dump(mode="json", exclude={"image"}),
        licence=licence_note(run.data.name, is_own, run.recipe.init),
        cost=row.cost,
        environment=row.environment,
        finished=row.finished,
    )
