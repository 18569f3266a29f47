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
from ..records.store import InvalidRow
from ..spec.reported import load_reported, reported_names
from ..spec.scale import Scale
from ..spec.table import Selection, Table, load_table
from ..text import printable
from . import files, overview_text, paper_text
from .cells import Cell
from .evidence import NOTHING, Published
from .inference import NOTHING_MEASURED, Measured, with_inference
from .overview import summarize
from .own_data import with_results
from .paper import paper_view
from .paper_text import Layout
from .summary import invalid_row_lines
from .table_view import COSTS, HEADERS, BlockView, TableView, table_view

TABLES = Path("results/tables")
WIDE = 150  # columns, where the output is no terminal
GAP = 2  # between columns
NARROW = 14  # columns that names of methods get at least

STYLES = {"reproduced": "green", "above": "cyan", "below": "red", "not": "dim", "measured": "", "skipped": "dim"}
"""By the first word of a verdict; colors only repeat what the words say."""


def print_tables(
    tables: Sequence[str | Table],
    rows: Sequence[Row],
    invalid: Iterable[InvalidRow] = (),
    scale: Scale | None = None,
    published: Published = NOTHING,
    out: Path | None = TABLES,
    console: Console | None = None,
    layout: Layout = "evidence",
    select: Selection | None = None,
    measured: Measured = NOTHING_MEASURED,
) -> str:
    """Print `tables`, by name or loaded, and write each as CSV, Markdown and LaTeX into `out`; returns what it printed.

    Without a `scale`, a table that has any full-scale row is printed at full scale, else at mini. Files that are no
    result rows are listed at the end. `select` is the epoch to show; without it, the one that is reported.
    `measured` has the cost of inference with the runs' students.

    Raises:
        SpecError, MethodError: a table, recipe or file of reported numbers is missing or wrong.
        StoreError: the folder cannot be written.
    """
    console = console or default_console()
    console.record = True
    for name in tables:
        table = name if isinstance(name, Table) else load_table(name)
        for each, chosen, cells in with_results(table, rows, scale, published, select):
            written = _print_table(console, each, with_inference(cells, measured), chosen, layout, out)
            if out is not None:
                if written:
                    console.print(_text(f"written: {', '.join(map(str, written))}", style="dim"))
                console.print()
    _print_invalid(console, invalid)
    return console.export_text()


def _print_table(
    console: Console, table: Table, cells: Sequence[Cell], scale: Scale, layout: Layout, out: Path | None
) -> list[Path]:
    """Print one table and write its files, whose paths are returned; a paper's table without any number has none."""
    if layout == "paper":
        paper = paper_view(table, cells, scale)
        paper_text.print_view(console, paper)
        return paper_text.write(paper, out) if out is not None and paper.rows else []
    view = table_view(table, cells, scale)
    print_view(console, view)
    return files.write(view, out) if out is not None else []


def default_console() -> Console:
    """The terminal as it is; where the output is no terminal, a wide page without color."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE, no_color=True)


def print_view(console: Console, view: TableView) -> None:
    """Print one table: title, header, a grid a block, footnotes and footer."""
    console.print(_text(view.title, style="bold"))
    for line in view.header:
        console.print(_text(line))
    widths = {name: _width(name, view) for name in view.columns}
    for block in view.blocks:
        console.print()
        console.print(_text(block.title, style="bold"))
        for line in block.heading:
            console.print(Padding(_text(line, style="dim"), (0, 0, 0, 2), expand=False))
        for columns in split_columns(widths, console.width):
            console.print(_grid(block, columns, widths))
    console.print()
    for i, text in enumerate(view.footnotes, 1):
        console.print(list_item(text, f"[{i}] "))
    if view.footnotes:
        console.print()
    console.print(Text("How to read this table:", style="bold"))
    for line in view.footer:
        console.print(list_item(line))


def split_columns(widths: dict[str, int], page: int) -> list[list[str]]:
    """The columns of each grid of a block: one grid where the page is wide enough, else costs apart and as many as fit.

    Each grid begins with the names of methods, which may be broken.
    """
    names = list(widths)
    if _total_width(names, widths) <= page:
        return [names]
    narrow = widths | {"method": min(widths["method"], NARROW)}
    grids = []
    for costs in (False, True):
        grid = ["method"]
        for name in (name for name in names if name != "method" and (name in COSTS) == costs):
            if len(grid) > 1 and _total_width([*grid, name], narrow) > page:
                grids.append(grid)
                grid = ["method"]
            grid.append(name)
        grids.append(grid)
    return grids


def list_item(text: str, mark: str = "- ") -> Grid:
    """A list item whose further lines are indented."""
    grid = Grid.grid(padding=0)
    grid.add_column(width=len(mark), no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark), _text(text))
    return grid


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style)


def _total_width(names: Sequence[str], widths: dict[str, int]) -> int:
    return sum(widths[name] for name in names) + GAP * (len(names) - 1)


def _width(name: str, view: TableView) -> int:
    """The column's width in all blocks, so that the columns of all blocks are aligned."""
    records = [record[name] for block in view.blocks for record in block.records]
    return max(len(text) for text in [*records, *HEADERS[name].split("\n")])


def _grid(block: BlockView, columns: Sequence[str], widths: dict[str, int]) -> Grid:
    """One block; only names of methods are broken where the page is too narrow."""
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0), show_edge=False)
    for name in columns:
        if name == "method":
            grid.add_column(HEADERS[name], min_width=min(widths[name], NARROW), max_width=widths[name], overflow="fold")
        else:
            justify: Literal["left", "right"] = "left" if name == "verdict" else "right"
            grid.add_column(HEADERS[name], justify=justify, width=widths[name], no_wrap=True)
    for record in block.records:
        style = STYLES.get(record["verdict"].split(" ")[0], "yellow")
        grid.add_row(*(_text(record[name], style=style if name == "verdict" else "") for name in columns))
    return grid


def print_overview(
    tables: Sequence[Table],
    rows: Sequence[Row],
    invalid: Iterable[InvalidRow] = (),
    published: Published = NOTHING,
    out: Path | None = TABLES,
    console: Console | None = None,
) -> str:
    """Print one line a paper with its evidence, and write it as CSV and Markdown; returns what it printed.

    Raises:
        SpecError, MethodError: a table, recipe or file of numbers is missing or wrong.
        StoreError: the folder cannot be written.
    """
    console = console or default_console()
    console.record = True
    papers = summarize(tables, {name: load_reported(name) for name in reported_names()}, rows, published)
    console.print(_text(overview_text.headline(papers), style="bold"))
    console.print()
    records = overview_text.records(papers)
    for shown in _fitting(records, console.width):
        grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0), show_edge=False)
        for name in shown:
            justify: Literal["left", "right"] = "left" if name == "paper" else "right"
            grid.add_column(_text(overview_text.HEADERS[name]), justify=justify, no_wrap=True)
        for record in records:
            grid.add_row(*(_text(record[name]) for name in shown))
        console.print(grid)
        console.print()
    for note in overview_text.notes(papers):
        console.print(list_item(note))
    for line in overview_text.own_rows(tables, rows):
        console.print(list_item(line))
    console.print(list_item("`kdbench table dist/cifar100` prints a table, `kdbench table --all` every one"))
    if out is not None:
        written = overview_text.write(papers, out)
        console.print(_text(f"written: {', '.join(map(str, written))}", style="dim"))
    _print_invalid(console, invalid)
    return console.export_text()


def _fitting(records: Sequence[dict[str, str]], page: int) -> list[list[str]]:
    """The columns of each grid of the overview: the counts of each kind of evidence give way to the verdicts.

    Where these do not fit the page either, the difference to the report is in a grid of its own.
    """
    headers = overview_text.HEADERS
    widths = {
        name: max(len(line) for text in (headers[name], *(each[name] for each in records)) for line in text.split("\n"))
        for name in headers
    }
    shown = list(headers)
    for name in ("runnable", "logs", "weights", "measured", "reruns"):
        if _total_width(shown, widths) > page:
            shown.remove(name)
    if _total_width(shown, widths) <= page:
        return [shown]
    return [[name for name in shown if name != "difference"], ["paper", "difference"]]


def _print_invalid(console: Console, invalid: Iterable[InvalidRow]) -> None:
    if lines := invalid_row_lines(invalid):
        console.print(Text("Files that are no result rows and were left out:", style="bold"))
        for line in lines:
            console.print(list_item(line))
