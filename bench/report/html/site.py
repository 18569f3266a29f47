"""Writes the report: `index.html`, its libraries and data, and one file of details a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ...errors import StoreError
from ...records.row import Row
from ...records.store import InvalidRow, read_rows, write_atomically
from ...spec.reported import load_reported, reported_names
from ...spec.table import Table, load_table, table_names
from ...text import counted, printable
from .. import overview_text
from ..added import register_files, with_added
from ..evidence import NOTHING, Published
from ..overview import DECIDED, Summary, summarize
from ..summary import invalid_row_lines
from .columns import FILTERS
from .details import details
from .libraries import check_installed, datatables, plotly
from .lines import Line, all_lines
from .packed import packed, script

GENERATOR = "kdbench report"
"""By which a page of an earlier build is known."""

INDEX = "index.html"
CELLS = Path("data/cells")
OWN_ASSETS = ("report.css", "theme.js", "decode.js", "view.js", "download.js", "details.js", "report.js")


@dataclass(frozen=True)
class Content:
    """What the page shows: lines of its table, papers, and notes about what is missing or was left out."""

    lines: Sequence[Line]
    papers: Sequence[Summary]
    notes: Sequence[str]


def build(
    tables: Sequence[Table] | None,
    folders: Sequence[Path],
    published: Callable[[], tuple[Published, Sequence[InvalidRow]]],
    out: Path,
    log: Callable[[str], None],
) -> Path:
    """Read rows and write the report of them; returns the page.

    Args:
        tables: those that are shown; None for all.
        folders: of rows, the user's runs first.
        published: reads what others published, with files that are no rows.
        out: the folder of the page.
        log: gets what is left out, and the page's path.

    Raises:
        SpecError, MethodError, StoreError: as `gather` and `write`.
    """
    check_installed()
    check_folder(out)
    rows, invalid = read_rows(folders)
    evidence, invalid_weights = published()
    register_files(folders[0], log)
    shown = with_added([load_table(name) for name in table_names()] if tables is None else tables, folders[0])
    content = gather(rows, [*invalid, *invalid_weights], evidence, shown, every=tables is None)
    for line in invalid_row_lines([*invalid, *invalid_weights]):
        log(f"left out: {line}")
    return write(content, out, log)


def gather(
    rows: Sequence[Row],
    invalid: Iterable[InvalidRow] = (),
    published: Published = NOTHING,
    tables: Sequence[Table] = (),
    every: bool = True,
) -> Content:
    """Cells, reported numbers and the overview of papers.

    Args:
        rows: what was trained here.
        invalid: files that are no rows; they are listed.
        published: what others published.
        tables: those that are shown.
        every: show reported numbers that no table has a cell for, too.

    Raises:
        SpecError, MethodError: a table, recipe or file of numbers is missing or wrong.
    """
    shipped = [load_table(name) for name in table_names()]
    papers = summarize(shipped, {name: load_reported(name) for name in reported_names()}, rows, published)
    lines = all_lines(tables, rows, published, papers if every else ())
    notes = [] if rows else ["Nothing has been trained here yet: the page has reported numbers and others' evidence."]
    left_out = [f"left out, as it is no result row: {printable(text)}" for text in invalid_row_lines(invalid)]
    return Content(lines, papers, notes + left_out)


def check_folder(out: Path) -> None:
    """Refuse a folder that is not the report's.

    Raises:
        StoreError: it is a file, or has a page that another program wrote.
    """
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out}: is a file; give a folder for the report with --out")
    index = out / INDEX
    if index.is_file() and GENERATOR.encode() not in index.read_bytes()[:4096]:
        raise StoreError(f"{index}: was not written by kdbench report; give another folder with --out")


def write(content: Content, out: Path, log: Callable[[str], None] = lambda _: None) -> Path:
    """Write the report into a folder, over an earlier one; returns the page.

    Raises:
        SpecError: a package that brings a library is missing.
        StoreError: the folder cannot be used.
    """
    check_installed()
    check_folder(out)
    static = files(__package__) / "static"
    own = {name: static.joinpath(name).read_text(encoding="utf-8") for name in OWN_ASSETS}
    assets = {**datatables(), "plotly.min.js": plotly(), **own}
    for name, text in assets.items():
        write_atomically(out / "assets" / name, text.encode())
    _write_details(content.lines, out / CELLS)
    write_atomically(out / "data/table.js", script("kdbench.load", packed(content.lines)).encode())
    write_atomically(out / INDEX, page(content).encode())
    log(f"{counted(len(content.lines), 'line')}: {out / INDEX}")
    return out / INDEX


def page(content: Content) -> str:
    """The page; everything that is not the project's text is escaped."""
    from ... import __version__

    environment = Environment(
        loader=PackageLoader("kdbench.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2").render(
        generator=f"{GENERATOR} {__version__}",
        version=__version__,
        headline=overview_text.headline(content.papers),
        papers=_papers(content.papers),
        headings={name: text.replace("-\n", "").replace("\n", " ") for name, text in overview_text.HEADERS.items()},
        reading=overview_text.notes(content.papers),
        notes=content.notes,
        filters=FILTERS,
        verdicts=DECIDED,
        lines=len(content.lines),
    )


def _papers(papers: Sequence[Summary]) -> list[dict[str, Any]]:
    """One record a paper of the overview, then the sum."""
    return [record | {"is_paper": record["paper"] in {p.name for p in papers}} for record in _records(papers)]


def _records(papers: Sequence[Summary]) -> list[dict[str, str]]:
    return [record for record in overview_text.records(papers) if not record["paper"].startswith(" ")]


def _write_details(lines: Iterable[Line], folder: Path) -> None:
    """One script a line, whole before the page that refers to it; those of lines that are gone are removed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = set()
        for line in lines:
            file = folder / f"{line.id}.js"
            file.write_text(script("kdbench.showDetails", line.id, details(line)), encoding="utf-8")
            written.add(file.name)
        for file in folder.glob("*.js"):
            if file.name not in written:
                file.unlink()
    except OSError as error:
        raise StoreError(f"{folder}: the report cannot be written: {error.strerror}") from error
