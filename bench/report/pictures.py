"""Validation images as saved networks see them: which images and networks, and the page, a row a network."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ..records.row import Row
from ..spec.run import Run
from ..spec.table import Table
from ..text import printable
from . import values
from .blocks import Block
from .figures import SMALL, TITLE, WIDTH

LABELS = 1.3  # width of the networks' names, inches
LABEL = 20  # characters of a line of them
TINY = 5.5  # points
NAME = 34  # characters of a file's name

Picture = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class Gallery:
    """Where a table's students and images are."""

    results: Path  # folder of runs
    root: Path  # of data sets
    data: Path | None = None  # the user's data set
    open_options: dict[str, Any] = field(default_factory=dict)  # options for opening `data`


@dataclass(frozen=True)
class SavedNetwork:
    """A network whose predictions are drawn: its label with its score, its run, and its file with its sha256."""

    label: str
    run: Run
    file: Path
    sha256: str
    is_teacher: bool = False

    @property
    def missing(self) -> str:
        """What to say where the file is not the measured one; empty where it is."""
        from ..records.checkpoint import sha256 as digest

        if self.file.exists() and digest(self.file) == self.sha256:
            return ""
        name = self.label.partition("\n")[0]
        return f"{name}, whose file {self.file} is missing or not the measured one"


@dataclass(frozen=True)
class Frame:
    """A box to draw: corners x1 y1 x2 y2 in pixels, its text and color, and whether its line is dashed."""

    corners: tuple[float, float, float, float]
    text: str
    color: str
    dashed: bool = False


@dataclass(frozen=True)
class Drawn:
    """An image with boxes, and what is to be seen in it, in words."""

    picture: Picture
    frames: tuple[Frame, ...] = ()
    words: str = ""


@dataclass(frozen=True)
class Panel:
    """Predictions on some images: a row a network, a column an image.

    Attributes:
        names: of the images' files.
        rows: label, network and images of each row; no network in rows of images and of their truth.
        figure: all of it on a page.
        missing: what could not be drawn, and why.
        note: how to read the images.
        legend: names of classes, with their colors as `#rrggbb`.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, SavedNetwork | None, tuple[Drawn, ...]], ...]
    figure: Figure
    missing: list[str]
    note: str = ""
    legend: tuple[tuple[str, str], ...] = ()


def saved_networks(table: Table, block: Block, gallery: Gallery) -> Iterator[SavedNetwork]:
    """The teacher, the student alone and every other method's student, of the first seed."""
    from ..train.checkpointing import STUDENT

    cells = [line.cell for line in block.lines]
    distilled: Row | None = next(
        (row for cell in cells for row in cell.rows[:1] if row.run.teacher and row.teacher), None
    )
    if distilled is not None and distilled.run.teacher and distilled.teacher and not distilled.run.teacher_file:
        score = values.number(distilled.teacher.measured, 1)
        file = gallery.results / distilled.run.teacher.id / STUDENT
        yield SavedNetwork(f"teacher\n{score}", distilled.run.teacher, file, distilled.teacher.sha256, is_teacher=True)
    for line in sorted(block.lines, key=lambda line: line.cell.entry.method != "none"):
        for row in line.cell.rows[:1]:
            assert row.student is not None and row.metrics is not None  # a cell's measured rows are done
            score = values.number(row.metrics.last[table.metric], 1)
            file = gallery.results / row.student.file
            yield SavedNetwork(f"{line.label}\n{score}", row.run, file, row.student.sha256)


def spread_positions(names: Sequence[str], count: int) -> list[int]:
    """Positions of `count` images from different places of a set, ascending; of all where it has no more.

    Images belong to one sequence where their names begin alike up to the first `_`, `-` or `.`: a film of CamVid, a
    city of Cityscapes. Sequences get images in turn, those with more of them first, and within a sequence images are
    evenly spread. Names without such a beginning are one sequence.

    Args:
        names: of the files, in the order of the set.
        count: of images to choose.
    """
    sequences: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        beginning = re.split(r"[_.-]", name, maxsplit=1)
        sequences.setdefault(beginning[0] if len(beginning) > 1 else "", []).append(i)
    given = dict.fromkeys(sequences, 0)
    for _ in range(min(count, len(names))):
        left = [name for name, images in sequences.items() if given[name] < len(images)]
        given[max(left, key=lambda name: (-given[name], len(sequences[name])))] += 1
    chosen = [
        images[int((k + 0.5) * len(images) / given[n])] for n, images in sequences.items() for k in range(given[n])
    ]
    return sorted(chosen)


def page(title: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[Drawn]]], legend: float) -> Figure:
    """A figure of images: a row a network, with its label, a column an image, with its file's name.

    Args:
        title: of the figure.
        names: of the images' files.
        rows: label and images of each network.
        legend: height to leave for a legend, inches.
    """
    shapes = [drawn.picture.shape for drawn in rows[0][1]]
    ratio = max(height / width for height, width, _ in shapes)
    cell = (WIDTH - LABELS) / len(names)
    heading = textwrap.fill(title, TITLE - 10)
    figure = Figure(
        figsize=(WIDTH, len(rows) * (cell * ratio + 0.04) + 0.5 + 0.2 * len(heading.splitlines()) + legend),
        layout=ConstrainedLayoutEngine(h_pad=0.01, w_pad=0.01, hspace=0.01, wspace=0.01),
    )
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes = figure.subplots(len(rows), len(names), squeeze=False)
    for line, (label, drawn) in zip(axes, rows, strict=True):
        for axis, each in zip(line, drawn, strict=True):
            _draw(axis, each, cell)
        wrapped = "\n".join(textwrap.fill(part, LABEL) for part in printable(label).split("\n"))
        line[0].set_ylabel(wrapped, rotation=0, ha="right", va="center", fontsize=SMALL)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(printable(name if len(name) <= NAME else f"…{name[-NAME:]}"), fontsize=TINY + 1)
    return figure


def _draw(axis: Axes, drawn: Drawn, cell: float) -> None:
    """Draw an image that is `cell` inches wide, with its boxes."""
    axis.imshow(drawn.picture, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    height, width = drawn.picture.shape[:2]
    places = label_places(drawn.frames, (height, width), width / cell / 72 * TINY)
    for frame, (x, y) in zip(drawn.frames, places, strict=True):
        x1, y1, x2, y2 = frame.corners
        dash = (0, (3, 2)) if frame.dashed else "-"
        axis.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=frame.color, linewidth=1.2, linestyle=dash)
        )
        style: dict[str, Any] = {"fontsize": TINY, "color": text_color(frame.color), "va": "top", "clip_on": True}
        box = {"facecolor": frame.color, "edgecolor": "none", "pad": 0.6}
        axis.text(x, y, printable(frame.text), bbox=box, **style).set_in_layout(False)


def label_places(frames: Sequence[Frame], size: tuple[int, int], letter: float) -> list[tuple[float, float]]:
    """Left and top of each box's text, pixels: at the corner of the box where it covers the least of other texts.

    Args:
        frames: the last has the first choice, because it is drawn on top.
        size: height and width of the image.
        letter: height of a letter.
    """
    height, width = size
    taken: list[tuple[float, float, float, float]] = []
    places: list[tuple[float, float]] = []
    for frame in reversed(frames):
        wide, high = 0.65 * letter * len(frame.text) + letter / 4, 1.35 * letter
        x1, y1, x2, y2 = frame.corners
        corners = [(x, y) for y in (y1 - high, y1, y2 - high, y2) for x in (x1, x2 - wide)]
        inside = [(min(max(x, 0.0), width - wide), min(max(y, 0.0), height - high)) for x, y in corners]
        covered = [
            sum(
                max(0.0, min(x + wide, right) - max(x, left)) * max(0.0, min(y + high, bottom) - max(y, top))
                for left, top, right, bottom in taken
            )
            for x, y in inside
        ]
        x, y = inside[covered.index(min(covered))]
        taken.append((x, y, x + wide, y + high))
        places.append((x, y))
    return places[::-1]


def text_color(background: str) -> str:
    """Black or white, whichever is read better on a color given as `#rrggbb` (WCAG's relative luminance)."""
    channels = [int(background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return "black" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "white"
