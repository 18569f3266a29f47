"""Paper tables in the terminal, and as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from ..records.row import Row
from ..records.store import Misfit
from ..spec.recipe import Scale
from ..spec.table import Table, load_table
from . import files
from .cells import Cell, collect
from .sheet import COSTS, HEADERS, Part, Sheet, sheet
from .summary import misfit_lines

TABLES = Path("results/tables")
WIDE = 150  # columns, where the output is no terminal
GAP = 2  # between columns
NARROW = 14  # columns that names of methods get at least

STYLES = {"reproduced": "green", "above": "cyan", "below": "red", "not": "dim", "measured": "", "skipped": "dim"}
"""By the first word of a verdict; words carry the meaning, colour only repeats it."""


def show(
    tables: Sequence[str | Table],
    rows: Sequence[Row],
    misfits: Iterable[Misfit] = (),
    scale: Scale | None = None,
    out: Path | None = TABLES,
    console: Console | None = None,
) -> str:
    """Print `tables`, by name or loaded, and write each as CSV, Markdown and LaTeX into `out`; returns what it printed.

    Without a `scale`, full is shown for a table that has any full row, else mini. Files that are no result rows are
    listed at the end.

    Raises:
        SpecError, MethodError: a table, recipe or file of reported numbers is missing or wrong.
        StoreError: the folder cannot be written.
    """
    console = console or default_console()
    console.record = True
    for given in tables:
        table = given if isinstance(given, Table) else load_table(given)
        found, cells = collect_at(table, rows, scale)
        print_sheet(console, one := sheet(table, cells, found))
        if out is not None:
            written = files.write(one, out)
            console.print(Text(f"written: {', '.join(map(str, written))}", style="dim"))
            console.print()
    if lines := misfit_lines(misfits):
        console.print(Text("Files that are no result rows and were left out:", style="bold"))
        for line in lines:
            console.print(item(line))
    return console.export_text()


def default_console() -> Console:
    """The terminal as it is; a wide page without colour anywhere else."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE, no_color=True)


def collect_at(table: Table, rows: Sequence[Row], scale: Scale | None) -> tuple[Scale, list[Cell]]:
    """The table's cells at `scale`, or at the scale worth showing: full when any of its full-scale runs exists."""
    if scale is not None:
        return scale, collect(table, rows, scale)
    full = collect(table, rows, "full")
    return (
        ("full", full) if any(cell.rows or cell.troubled for cell in full) else ("mini", collect(table, rows, "mini"))
    )


def print_sheet(console: Console, one: Sheet) -> None:
    console.print(Text(one.title, style="bold"))
    for line in one.header:
        console.print(Text(line))
    widths = {name: _width(name, one) for name in one.columns}
    for part in one.parts:
        console.print()
        console.print(Text(part.shown, style="bold"))
        for line in part.heading:
            console.print(Padding(Text(line, style="dim"), (0, 0, 0, 2), expand=False))
        for columns in layout(widths, console.width):
            console.print(_grid(part, columns, widths))
    console.print()
    for i, text in enumerate(one.footnotes, 1):
        console.print(item(text, f"[{i}] "))
    if one.footnotes:
        console.print()
    console.print(Text("What this run shows:", style="bold"))
    for line in one.footer:
        console.print(item(line))


def layout(widths: dict[str, int], page: int) -> list[list[str]]:
    """Columns of the grids that a block takes: one where the page is wide enough, else costs apart and as many as fit.

    Names of methods, which may be broken, begin each.
    """
    names = list(widths)
    if _breadth(names, widths) <= page:
        return [names]
    narrow = widths | {"method": min(widths["method"], NARROW)}
    grids = []
    for costs in (False, True):
        grid = ["method"]
        for name in (name for name in names if name != "method" and (name in COSTS) == costs):
            if len(grid) > 1 and _breadth([*grid, name], narrow) > page:
                grids.append(grid)
                grid = ["method"]
            grid.append(name)
        grids.append(grid)
    return grids


def _breadth(names: Sequence[str], widths: dict[str, int]) -> int:
    return sum(widths[name] for name in names) + GAP * (len(names) - 1)


def _width(name: str, one: Sheet) -> int:
    """Of a column in all blocks, so that columns stand under each other."""
    records = [record[name] for part in one.parts for record in part.records]
    return max(len(text) for text in [*records, *HEADERS[name].split("\n")])


def _grid(part: Part, columns: Sequence[str], widths: dict[str, int]) -> Grid:
    """One block; only names of methods are broken where the page is too narrow."""
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0), show_edge=False)
    for name in columns:
        if name == "method":
            grid.add_column(HEADERS[name], min_width=min(widths[name], NARROW), max_width=widths[name], overflow="fold")
        else:
            justify: Literal["left", "right"] = "left" if name == "verdict" else "right"
            grid.add_column(HEADERS[name], justify=justify, width=widths[name], no_wrap=True)
    for record in part.records:
        style = STYLES.get(record["verdict"].split(" ")[0], "yellow")
        grid.add_row(*(Text(record[name], style=style if name == "verdict" else "") for name in columns))
    return grid


def item(text: str, mark: str = "- ") -> Grid:
    """A list item whose further lines are indented."""
    grid = Grid.grid(padding=0)
    grid.add_column(width=len(mark), no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark), Text(text))
    return grid
