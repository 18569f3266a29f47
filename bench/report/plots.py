"""Figures of a table as PNG and SVG. The same rows give the same SVG, byte for byte."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..records.row import Row
from ..records.store import write_atomically
from ..spec.recipe import Scale
from ..spec.table import Table, load_table
from .blocks import blocks
from .cells import Cell
from .figures import curves_figure, gains_figure, measured_figure
from .panels import Gallery, panels
from .terminal import collect_at

PLOTS = Path("results/plots")
DPI = 150

FIGURES = {"measured": measured_figure, "gains": gains_figure, "curves": curves_figure}


@dataclass
class Drawing:
    """Files that were written, and what could not be drawn and why."""

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
    """Draw `tables`, by name or loaded, into `folder`; without a `scale`, at the one that `render.tables.show` takes.

    Raises:
        SpecError, MethodError: a table, recipe or file of reported numbers is missing or wrong.
        StoreError: the folder cannot be written.
    """
    all_of_them = Drawing()
    for given in tables:
        table = given if isinstance(given, Table) else load_table(given)
        found, cells = collect_at(table, rows, scale)
        one = draw(table, cells, found, folder, gallery)
        all_of_them.files += one.files
        all_of_them.messages += one.messages
    return all_of_them


def draw(table: Table, cells: Sequence[Cell], scale: Scale, folder: Path, gallery: Gallery | None = None) -> Drawing:
    """`<folder>/<paper>-<dataset>-<figure>.png` and `.svg` for each figure that there is something to draw for.

    With a `gallery`, a segmentation table also gets its panels, as PNG alone.
    """
    done = Drawing()
    stem = table.name.replace("/", "-")
    drawn = figures(table, cells, scale)
    if not drawn:
        done.messages.append(
            f"{table.name}: nothing to draw at {scale} scale, no run of it is done; "
            f"`make reproduce-{table.dataset.full}` runs it"
        )
        return done
    for name, figure in drawn.items():
        for suffix in ("png", "svg"):
            path = folder / f"{stem}-{name}.{suffix}"
            write_atomically(path, render(figure, suffix))
            done.files.append(path)
    done.messages += [f"{table.name}: no {name} to draw" for name in FIGURES if name not in drawn]
    if gallery is not None and table.task == "segmentation":
        pictures, said = panels(table, blocks(cells), gallery)
        for name, figure in pictures.items():
            path = folder / f"{stem}-{name}.png"
            write_atomically(path, render(figure, "png"))
            done.files.append(path)
        done.messages += said
    return done


def figures(table: Table, cells: Sequence[Cell], scale: Scale) -> dict[str, Figure]:
    """The figures that there is something to draw for, by name."""
    parts = blocks(cells)
    made = {name: make(table, parts, scale) for name, make in FIGURES.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def render(figure: Figure, suffix: str) -> bytes:
    """The figure as a file's content; neither date nor random ids are in it."""
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "kdbench"}):
        figure.savefig(content, format=suffix, dpi=DPI, metadata={"Date": None} if suffix == "svg" else None)
    return content.getvalue()
