"""Predicted masks of a segmentation table: a few validation images, a row a network, a column an image."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
IGNORED_COLOR = (255, 255, 255)

Picture = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class Gallery:
    """Where a table's students and images are."""

    results: Path  # folder of runs
    root: Path  # of data sets
    data: Path | None = None  # the user's data set
    open_options: dict[str, Any] = field(default_factory=dict)  # options for opening `data`


def panels(table: Table, blocks: Sequence[Block], gallery: Gallery) -> tuple[dict[str, Figure], list[str]]:
    """A figure for each block of a segmentation table, by name, and messages about what could not be drawn and why.

    Networks are read from their saved files and predict the images anew.
    """
    drawn: dict[str, Figure] = {}
    messages: list[str] = []
    measured = [
        (block, rows) for block in blocks if (rows := [line.cell.rows[0] for line in block.lines if line.cell.rows])
    ]
    for number, (block, rows) in enumerate(measured, 1):
        task = _task(rows[0].run, gallery)
        if isinstance(task, str):
            messages.append(f"{table.name}: no panel of {block.title}: {task}")
            continue
        name = "panel" if len(measured) == 1 else f"panel-{number}"
        figure, missing = _panel(table, block, task, gallery)
        drawn[name] = figure
        messages += [f"{table.name}: {name} lacks {what}" for what in missing]
    return drawn, messages


def _task(run: Run, gallery: Gallery) -> SegmentationTask | str:
    """The task on the run's data; or why that data cannot be opened."""
    from kdbench import datasets

    from .. import tasks

    if gallery.data is None and run.data.name not in datasets.names():
        return f"its runs used the data set {run.data.name}, which is not built in; give it with --data"
    try:
        options = run.data.options | gallery.open_options
        data = tasks.get(run.task).open(run.data.name, gallery.root, gallery.data, options)
    except datasets.DataError as error:
        return str(error)
    if data.fingerprint != run.data.fingerprint:
        return (
            f"its runs used {run.data.name} {run.data.fingerprint}, and {data.path} is {data.fingerprint}; give --data"
        )
    return cast("SegmentationTask", tasks.get(run.task)(data, run.recipe, run.data_seed))


def _panel(table: Table, block: Block, task: SegmentationTask, gallery: Gallery) -> tuple[Figure, list[str]]:
    from ..records.checkpoint import sha256 as digest

    positions = np.linspace(0, len(task.data.val) - 1, IMAGES + 2).round().astype(int)[1:-1].tolist()
    pictures = [task.data.val.load(i) for i in positions]
    rows = [("image", [image for image, _ in pictures]), ("truth", [_paint(mask, task.data) for _, mask in pictures])]
    missing = []
    for label, run, file, sha256 in _networks(table, block, gallery):
        if not file.exists() or digest(file) != sha256:
            missing.append(f"{label}, whose file {file} is missing or not the measured one")
        else:
            rows.append((label, _predict(run, file, task, positions)))
    return _figure(f"{table.title}: {block.title.replace('->', '→')}", rows, task.data), missing


def _networks(table: Table, block: Block, gallery: Gallery) -> Iterator[tuple[str, Run, Path, str]]:
    """The teacher and every method's student of the first seed: label with score, run, file and its sha256."""
    from ..train.checkpointing import STUDENT

    cells = [line.cell for line in block.lines]
    distilled: Row | None = next(
        (row for cell in cells for row in cell.rows[:1] if row.run.teacher and row.teacher), None
    )
    if distilled is not None and distilled.run.teacher and distilled.teacher and not distilled.run.teacher_file:
        score = values.number(distilled.teacher.measured, 1)
        file = gallery.results / distilled.run.teacher.id / STUDENT
        yield f"teacher\n{score}", distilled.run.teacher, file, distilled.teacher.sha256
    for line in block.lines:
        for row in line.cell.rows[:1]:
            assert row.student is not None and row.metrics is not None  # a cell's measured rows are done
            score = values.number(row.metrics.last[table.metric], 1)
            yield f"{line.label}\n{score}", row.run, gallery.results / row.student.file, row.student.sha256


def _predict(run: Run, file: Path, task: SegmentationTask, positions: list[int]) -> list[Picture]:
    import torch

    from ..networks.load import load_network

    device = torch.device("cpu")
    network = load_network(file, run.student, task.classes, device)
    predicted = {i: classes for i, _, classes in task.predictions(network, device, positions)}
    return [_paint(predicted[i].numpy(), task.data) for i in positions]


def _paint(classes: NDArray[Any], data: MaskSet) -> Picture:
    """Class indices [H, W] as an image in the data set's colors."""
    palette = np.full((256, 3), IGNORED_COLOR, dtype=np.uint8)
    palette[: len(data.classes)] = data.colors
    painted: Picture = palette[classes]
    return painted


def _figure(title: str, rows: Sequence[tuple[str, Sequence[Picture]]], data: MaskSet) -> Figure:
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
            _draw_image(axis, picture)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=SMALL)
    patches = [
        Patch(
            facecolor=(color[0] / 255, color[1] / 255, color[2] / 255),
            edgecolor="#6E6E6E",
            linewidth=0.5,
            label=name,
        )
        for name, color in [*zip(data.classes, data.colors, strict=True), ("ignored", IGNORED_COLOR)]
    ]
    figure.legend(handles=patches, loc="outside lower left", ncols=8, frameon=False, fontsize=SMALL)
    return figure


def _draw_image(axis: Axes, picture: Picture) -> None:
    axis.imshow(picture, interpolation="nearest", aspect="auto")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
