"""A table in the paper's layout: in the terminal, and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ..errors import unknown
from ..text import markdown as cleaned
from ..text import markdown_cell, one_line, printable, spreadsheet_cell
from .files import write_contents
from .packing import pack
from .paper import Column, Entry, PaperView
from .paper_latex import latex

Layout = Literal["evidence", "paper"]

LAYOUTS: tuple[Layout, ...] = ("evidence", "paper")
GAP = 2  # between columns
LABEL = 24  # columns that names of methods get before they are broken
FEWEST = 12  # columns that a pair gets on any page


def parse_layout(text: str) -> Layout:
    """ "evidence" or "paper".

    Raises:
        SpecError: anything else.
    """
    if text not in LAYOUTS:
        raise unknown("layout", text, LAYOUTS)
    return text


def write(view: PaperView, folder: Path) -> list[Path]:
    """`<folder>/<table>.paper.csv`, `.md` and `.tex`.

    Raises:
        StoreError: the folder cannot be written.
    """
    contents = {
        "csv": csv_frame(view).to_csv(index=False, lineterminator="\n"),
        "md": markdown(view),
        "tex": latex(view),
    }
    return write_contents(folder, f"{view.table.file_stem}.paper", contents)


def csv_frame(view: PaperView) -> pd.DataFrame:
    """A line a method, four columns a pair: unrounded mean, sample sd, number of seeds, and the reported number."""
    columns: dict[str, list[object]] = {"method": [_field(row.label) for row in view.rows]}
    for i, column in enumerate(view.columns):
        entries = [row.entries[i] for row in view.rows]
        samples = [entry.measured if entry else None for entry in entries]
        name = _field(column.name)
        columns[f"{name}: measured"] = [sample.mean if sample else None for sample in samples]
        columns[f"{name}: sd"] = [sample.sd if sample else None for sample in samples]
        columns[f"{name}: n"] = [sample.n if sample else 0 for sample in samples]
        if view.scale == "full" and view.reporters:
            columns[f"{name}: reported"] = [entry.reported if entry else None for entry in entries]
    return pd.DataFrame(columns)


def _field(text: str) -> str:
    return spreadsheet_cell(printable(text))


def markdown(view: PaperView) -> str:
    """One table with its caption and notes; a pair is a column."""
    titles = ["teacher", *("<br>".join(map(markdown_cell, _names(column))) for column in view.columns)]
    titles[0] = "teacher<br>student"
    lines = [titles, ["---", *("---:" for _ in view.columns)]]
    lines += [[markdown_cell(row.label), *(_markdown_entry(view, e) for e in row.entries)] for row in view.rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    caption = " ".join([cleaned(view.caption), *legend(view, "Bold")])
    notes = "\n".join(f"- {cleaned(note)}" for note in (*view.notes, *view.remarks))
    return "\n\n".join(part for part in (f"# {cleaned(view.table.name)}", caption, table, notes) if part) + "\n"


def legend(view: PaperView, best: str) -> list[str]:
    """What marks the best of a column, and what is in parentheses, where there are any."""
    entries = [entry for row in view.rows for entry in row.entries if entry]
    parts = [f"{best}: the best of a column."] if any(entry.best for entry in entries) else []
    if any(entry.reported is not None for entry in entries):
        parts.append(f"In parentheses: reported by {cleaned(', '.join(view.reporters) or view.table.paper)}.")
    return parts


def _names(column: Column) -> list[str]:
    return [name for name in (column.teacher, column.student, column.variant) if name]


def _markdown_entry(view: PaperView, entry: Entry | None) -> str:
    measured = _measured(view, entry)
    return " ".join(filter(None, [f"**{measured}**" if entry and entry.best else measured, _reported(view, entry)]))


def _measured(view: PaperView, entry: Entry | None) -> str:
    """`71.34 ± 0.12`; a dash for none."""
    if entry is None or entry.measured is None:
        return "-"
    mean, sd = view.mean(entry.measured.mean), entry.measured.sd
    return mean if sd is None else f"{mean} ± {view.mean(sd)}"


def _reported(view: PaperView, entry: Entry | None) -> str:
    """`(71.16)`, with a dagger where the measured number is not comparable with it."""
    if entry is None or entry.reported is None:
        return ""
    return f"({view.mean(entry.reported)}{'' if entry.comparable or entry.measured is None else '†'})"


def print_view(console: Console, view: PaperView) -> None:
    """Print one table: caption, as many grids as the page needs, and notes."""
    console.print(Text(printable(view.table.name), style="bold"))
    console.print(Text(printable(" ".join([view.caption, *legend(view, "*")]))))
    if not view.rows:
        console.print(
            Text(f"No run is finished at scale {view.scale}, and no reported number is shown: nothing to write.")
        )
    label = max((len(one_line(row.label)) for row in view.rows), default=0)
    columns = [_texts(view, i) for i in range(len(view.columns))]
    label = min(label, LABEL) if sum(map(_width, columns)) + label + GAP > console.width else label
    page = max(console.width - label, FEWEST + GAP)
    for part in pack([min(_width(texts) + GAP, page) for texts in columns], page):
        console.print()
        console.print(_grid(view, part, columns, label, page - GAP))
    console.print()
    for note in (*view.notes, *view.remarks):
        console.print(Text(f"- {printable(note)}"))


Texts = list[tuple[str, str]]
"""The measured and the reported part of each entry of a column, aligned."""


def _texts(view: PaperView, i: int) -> Texts:
    """A column's entries; its headings have no reported part."""
    column, entries = view.columns[i], [row.entries[i] for row in view.rows]
    measured = [_measured(view, entry) + ("*" if entry and entry.best else " ") for entry in entries]
    reported = [_reported(view, entry) for entry in entries]
    widths = [max(map(len, part)) for part in (measured, reported)]
    names = [(one_line(name), "") for name in (column.teacher, column.student, column.variant)]
    parts = zip(measured, reported, strict=True)
    aligned = [(m.rjust(widths[0]), f" {r:<{widths[1]}}" if widths[1] else "") for m, r in parts]
    return [*names, *aligned]


def _width(texts: Texts) -> int:
    return max(len(measured) + len(reported) for measured, reported in texts)


def _grid(view: PaperView, part: Sequence[int], columns: Sequence[Texts], label: int, page: int) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0), show_edge=False)
    has_variant = any(view.columns[i].variant for i in part)
    header = "teacher\nstudent" + ("\n" if has_variant else "")
    grid.add_column(header, width=label, overflow="fold")
    for i in part:
        names = [name for name, _ in columns[i][: 3 if has_variant else 2]]
        grid.add_column(Text("\n".join(names)), justify="right", width=min(_width(columns[i]), page), overflow="fold")
    for number, row in enumerate(view.rows):
        if all(row.entries[i] is None for i in part):
            continue
        cells = []
        for i in part:
            measured, reported = columns[i][3 + number]
            entry = row.entries[i]
            cells.append(Text.assemble((measured, "bold" if entry and entry.best else ""), (reported, "dim")))
        grid.add_row(Text(one_line(row.label)), *cells, end_section=number + 1 == view.references)
    return grid
