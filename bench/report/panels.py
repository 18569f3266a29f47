"""What the networks of a segmentation table see: a few validation images, a row a network, a column an image."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ..records.row import Row
from ..spec.run import Run
from ..spec.table import Table
from . import values
from .blocks import Block
from .figures import SMALL, TITLE, WIDTH

if TYPE_CHECKING:
    from kdbench.datasets.base import MaskSet

    from ..tasks.segmentation import SegmentationTask

IMAGES = 4  # columns
VOID_COLOUR = (255, 255, 255)

Picture = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class Gallery:
    """Where a table's students and images lie."""

    results: Path  # folder of runs
    root: Path  # of data sets
    data: Path | None = None  # a data set of one's own
    reading: dict[str, Any] = field(default_factory=dict)  # options for opening `data`


def panels(table: Table, parts: Sequence[Block], gallery: Gallery) -> tuple[dict[str, Figure], list[str]]:
    """A panel for each block of a segmentation table, by name, and what could not be drawn and why.

    Networks are read from their saved files and asked again.
    """
    drawn: dict[str, Figure] = {}
    messages: list[str] = []
    shown = [
        (block, rows) for block in parts if (rows := [line.cell.rows[0] for line in block.lines if line.cell.rows])
    ]
    for number, (block, rows) in enumerate(shown, 1):
        task = _task(rows[0].run, gallery)
        if isinstance(task, str):
            messages.append(f"{table.name}: no panel of {block.shown}: {task}")
            continue
        name = "panel" if len(shown) == 1 else f"panel-{number}"
        figure, missing = _panel(table, block, task, gallery)
        drawn[name] = figure
        messages += [f"{table.name}: {name} lacks {what}" for what in missing]
    return drawn, messages


def _task(run: Run, gallery: Gallery) -> SegmentationTask | str:
    """The run's data, ready to be predicted; or why it is not."""
    from kdbench import datasets

    from .. import tasks
    from ..tasks.segmentation import SegmentationTask

    if gallery.data is None and run.data.name not in datasets.names():
        return f"its runs saw a data set {run.data.name} of one's own; give it with --data"
    try:
        data = tasks.open_data(run.task, run.data.name, gallery.root, gallery.data, run.data.options | gallery.reading)
    except datasets.DataError as error:
        return str(error)
    if data.fingerprint != run.data.fingerprint:
        return (
            f"its runs saw {run.data.name} {run.data.fingerprint}, and {data.path} is {data.fingerprint}; give --data"
        )
    task = tasks.build(data, run.recipe, run.data_seed)
    assert isinstance(task, SegmentationTask)
    return task


def _panel(table: Table, block: Block, task: SegmentationTask, gallery: Gallery) -> tuple[Figure, list[str]]:
    from ..records.checkpoint import sha256 as digest

    positions = np.linspace(0, len(task.data.val) - 1, IMAGES + 2).round().astype(int)[1:-1].tolist()
    pictures = [task.data.val.load(i) for i in positions]
    rows = [("image", [image for image, _ in pictures]), ("truth", [_painted(mask, task.data) for _, mask in pictures])]
    missing = []
    for label, run, file, sha256 in _networks(table, block, gallery):
        if not file.exists() or digest(file) != sha256:
            missing.append(f"{label}, whose file {file} is gone or not the one that was measured")
        else:
            rows.append((label, _predicted(run, file, task, positions)))
    return _drawn(f"{table.title}: {block.shown.replace('->', '→')}", rows, task.data), missing


def _networks(table: Table, block: Block, gallery: Gallery) -> Iterator[tuple[str, Run, Path, str]]:
    """Label with score, run, file and its sha256 of the teacher and of every method's first seed."""
    from ..train.student import STUDENT

    cells = [line.cell for line in block.lines]
    taught: Row | None = next((row for cell in cells for row in cell.rows[:1] if row.run.teacher and row.teacher), None)
    if taught is not None and taught.run.teacher and taught.teacher and not taught.run.teacher_file:
        score = values.number(taught.teacher.measured, 1)
        file = gallery.results / taught.run.teacher.id / STUDENT
        yield f"teacher\n{score}", taught.run.teacher, file, taught.teacher.sha256
    for line in block.lines:
        for row in line.cell.rows[:1]:
            assert row.student is not None and row.metrics is not None  # a row that counts is done
            score = values.number(row.metrics.last[table.metric], 1)
            yield f"{line.label}\n{score}", row.run, gallery.results / row.student.file, row.student.sha256


def _predicted(run: Run, file: Path, task: SegmentationTask, positions: list[int]) -> list[Picture]:
    import torch

    from ..networks.load import load_network

    device = torch.device("cpu")
    network = load_network(file, run.student, task.classes, device)
    found = {i: classes for i, _, classes in task.predictions(network, device, positions)}
    return [_painted(found[i].numpy(), task.data) for i in positions]


def _painted(classes: NDArray[Any], data: MaskSet) -> Picture:
    """Class indices [H, W] in the data set's colours."""
    palette = np.full((256, 3), VOID_COLOUR, dtype=np.uint8)
    palette[: len(data.classes)] = data.colours
    painted: Picture = palette[classes]
    return painted


def _drawn(title: str, rows: Sequence[tuple[str, Sequence[Picture]]], data: MaskSet) -> Figure:
    height, width = rows[0][1][0].shape[:2]
    cell = (WIDTH - 1.3) / IMAGES
    figure = Figure(
        figsize=(WIDTH, len(rows) * (cell * height / width + 0.04) + 1.1),
        layout=ConstrainedLayoutEngine(h_pad=0.01, w_pad=0.01, hspace=0.01, wspace=0.01),
    )
    figure.suptitle(textwrap.fill(title, TITLE), x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes = figure.subplots(len(rows), IMAGES, squeeze=False)
    for line, (label, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            _show(axis, picture)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=SMALL)
    patches = [
        Patch(
            facecolor=(colour[0] / 255, colour[1] / 255, colour[2] / 255),
            edgecolor="#6E6E6E",
            linewidth=0.5,
            label=name,
        )
        for name, colour in [*zip(data.classes, data.colours, strict=True), ("void", VOID_COLOUR)]
    ]
    figure.legend(handles=patches, loc="outside lower left", ncols=8, frameon=False, fontsize=SMALL)
    return figure


def _show(axis: Axes, picture: Picture) -> None:
    axis.imshow(picture, interpolation="nearest", aspect="auto")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
