"""Figures of a table as PNG and SVG. Equal rows give equal SVG files, byte for byte."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..records.row import Row
from ..records.store import write_atomically
from ..spec.reported import load_reported, reported_names
from ..spec.scale import Scale
from ..spec.table import Table, load_table
from ..text import printable
from . import ranks
from .blocks import Block, blocks
from .cells import Cell
from .confusion import confusion_figure
from .figures import curves_figure, gains_figure, measured_figure
from .losses import losses_figure
from .own_data import with_results
from .panel_file import PanelRecord, Role, Tile, TileRow, described
from .panels import PANELS, Gallery, panels
from .pictures import Panel, SavedNetwork
from .reported_scores import reported_scores

PLOTS = Path("results/plots")
DPI = 150

FIGURES = {"measured": measured_figure, "gains": gains_figure, "curves": curves_figure, "losses": losses_figure}


@dataclass
class Drawing:
    """Files that were written, and messages about what could not be drawn and why."""

    files: list[Path] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*(f"written: {path}" for path in self.files), *self.messages])


def draw_all(
    tables: Sequence[str | Table],
    rows: Sequence[Row],
    folder: Path = PLOTS,
    scale: Scale | None = None,
    gallery: Gallery | None = None,
) -> Drawing:
    """Draw `tables`, by name or loaded, into `folder`; without a `scale`, at the scale that `print_tables` takes.

    Raises:
        SpecError, MethodError: a table, recipe or file of reported numbers is missing or wrong.
        StoreError: the folder cannot be written.
    """
    drawing = Drawing()
    for name in tables:
        table = name if isinstance(name, Table) else load_table(name)
        for each, chosen, cells in with_results(table, rows, scale):
            part = draw(each, cells, chosen, folder, gallery)
            drawing.files += part.files
            drawing.messages += part.messages
    return drawing


def draw_reported_ranks(folder: Path) -> Drawing:
    """`<folder>/reported-<file>-<table>-ranks.png` and `.svg` for each file of reported numbers with enough pairs.

    Raises:
        SpecError: a file of reported numbers is wrong.
        StoreError: the folder cannot be written.
    """
    drawing = Drawing()
    if reason := ranks.unavailable():
        drawing.messages.append(reason)
        return drawing
    for file, tables in reported_scores({file: load_reported(file) for file in reported_names()}).items():
        for name, table in tables.items():
            with matplotlib.rc_context({"text.parse_math": False}):
                figure = ranks.ranks_figure(f"{file}, {name}, reported numbers", table.scores, table.quoted)
            if figure is not None:
                stem = re.sub(r"[^\w.+-]+", "-", f"reported-{file}-{name}-ranks")
                drawing.files += _write(figure, folder / stem)
    return drawing


def draw(table: Table, cells: Sequence[Cell], scale: Scale, folder: Path, gallery: Gallery | None = None) -> Drawing:
    """`<folder>/<paper>-<dataset>-<figure>.png` and `.svg` for each figure that has something to draw.

    With a `gallery`, a table also gets its panels, or its classifiers' confusion matrices, as PNG alone.
    """
    drawing = Drawing()
    stem = table.file_stem
    made = figures(table, cells, scale)
    if not made:
        drawing.messages.append(
            f"{table.name}: nothing to draw at {scale} scale, no run of it is finished; "
            f"`{table.run_command(scale)}` runs it"
        )
        return drawing
    for name, figure in made.items():
        drawing.files += _write(figure, folder / f"{stem}-{name}")
    drawing.messages += [f"{table.name}: no {name} to draw" for name in FIGURES if name not in made]
    if gallery is not None:
        pictures, messages = _pictures(table, blocks(cells), gallery)
        for name, picture in pictures.items():
            path = folder / f"{stem}-{name}.png"
            content = render_panel(table, picture) if isinstance(picture, Panel) else render(picture, "png")
            write_atomically(path, content)
            drawing.files.append(path)
        drawing.messages += messages
    return drawing


def _write(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and SVG; `path` has no suffix."""
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    for file in files:
        write_atomically(file, render(figure, file.suffix[1:]))
    return files


def figures(table: Table, cells: Sequence[Cell], scale: Scale) -> dict[str, Figure]:
    """The figures that have something to draw, by name."""
    parts = blocks(cells)
    with matplotlib.rc_context({"text.parse_math": False}):  # a name may hold dollar signs
        made = {name: make(table, parts, scale) for name, make in FIGURES.items()}
        if not ranks.unavailable():
            made["ranks"] = ranks.ranks_figure(f"{table.name}, measured at {scale} scale", ranks.measured_scores(parts))
    return {name: figure for name, figure in made.items() if figure is not None}


def _pictures(table: Table, parts: Sequence[Block], gallery: Gallery) -> tuple[Mapping[str, Figure | Panel], list[str]]:
    """Figures that need more than rows, by name, and messages about what could not be drawn."""
    with matplotlib.rc_context({"text.parse_math": False}):
        if table.task in PANELS:
            return panels(table, parts, gallery)
        figure, messages = confusion_figure(table, parts, gallery.results)
    return ({} if figure is None else {"confusion": figure}), messages


def render(figure: Figure, suffix: str) -> bytes:
    """The figure as a file's content, without date or random ids."""
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "kdbench"}):
        figure.savefig(content, format=suffix, dpi=DPI, metadata={"Date": None} if suffix == "svg" else None)
    return content.getvalue()


def render_panel(table: Table, panel: Panel) -> bytes:
    """A panel as a PNG that says what it shows and where."""
    png = render(panel.figure, "png")
    axes = iter(panel.figure.axes)  # of tiles, row by row; where they are is known after drawing
    rows = []
    for label, network, drawn in panel.rows:
        name, _, score = printable(label).partition("\n")
        tiles = tuple(Tile(box=_pixels(next(axes), panel.figure), words=printable(each.words)) for each in drawn)
        known = {"run": network.run.id, "sha256": network.sha256} if network else {}
        rows.append(TileRow(label=name, role=_role(network), score=score, tiles=tiles, **known))
    names = tuple(printable(name) for name in panel.names)
    legend = tuple((printable(name), color) for name, color in panel.legend)
    return described(png, PanelRecord(task=table.task, images=names, rows=tuple(rows), note=panel.note, legend=legend))


def _role(network: SavedNetwork | None) -> Role:
    if network is None:
        return "data"
    return "teacher" if network.is_teacher else "none" if network.run.method == "none" else "method"


def _pixels(axes: Axes, figure: Figure) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the whole pixels within an axes, counted from the top of the file."""
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    box = axes.get_position()
    return (
        math.ceil(box.x0 * width),
        math.ceil((1 - box.y1) * height),
        math.floor(box.x1 * width),
        math.floor((1 - box.y0) * height),
    )
