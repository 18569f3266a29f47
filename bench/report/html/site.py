"""Writes the report: `index.html` and `figures.html`, their libraries and data, and details of lines with pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ...records.row import Row
from ...records.store import InvalidRow, first_of_each_run, read_all, write_atomically
from ...spec.reported import Reported, load_reported, reported_names
from ...spec.table import Table, load_table, table_names
from ...text import counted, printable
from .. import overview_text
from ..added import register_files, with_added
from ..evidence import NOTHING, Published
from ..inference import read_measured
from ..overview import DECIDED, Summary, summarize
from ..summary import invalid_row_lines
from . import figure_files
from .class_tables import ClassTables
from .columns import FILTERS
from .details import Sources
from .folder import FIGURES, GENERATOR, INDEX, check_folder, check_publication, list_files, listed, remove_files
from .history_data import TableHistory
from .libraries import check_installed, datatables, plotly
from .lines import Line, all_lines, with_inference
from .packed import packed, script
from .redact import redactor, unchanged
from .shards import remove_others, write_details
from .tiles import Tiles


@dataclass(frozen=True)
class Content:
    """What the page shows.

    Attributes:
        lines: of its table.
        papers: counted.
        notes: about what is missing or was left out.
        reported: numbers that are ranked, by file.
        histories: of tables over commits.
        commands: what trains each table.
        sources: of what details have beside rows.
    """

    lines: Sequence[Line]
    papers: Sequence[Summary]
    notes: Sequence[str]
    reported: Mapping[str, Sequence[Reported]] = field(default_factory=dict)
    histories: Sequence[TableHistory] = ()
    commands: Mapping[str, str] = field(default_factory=dict)
    sources: Sources = field(default_factory=Sources)


def build(
    tables: Sequence[Table] | None,
    folders: Sequence[Path],
    published: Callable[[], tuple[Published, Sequence[InvalidRow]]],
    out: Path,
    log: Callable[[str], None],
    histories: Callable[[Sequence[Table], Sequence[Row]], Sequence[TableHistory]] = lambda *_: (),
    public: bool = False,
    plots: Path | None = None,
) -> Path:
    """Read rows and write the report of them; returns the page.

    Args:
        tables: those that are shown; None for all.
        folders: of rows, the user's runs first.
        published: reads what others published, with files that are no rows.
        out: the folder of the page.
        log: gets what is left out, and the page's path.
        histories: of tables over commits, made of all rows in the folders, several of one run included.
        public: write for a static host, as `write` does.
        plots: folder of pictures of predictions, as `kdbench plots` writes them.

    Raises:
        SpecError, MethodError, StoreError: as `gather` and `write`.
    """
    check_installed()
    (check_publication if public else check_folder)(out)
    every_row, invalid = read_all(folders)
    rows = first_of_each_run(every_row)
    evidence, invalid_weights = published()
    register_files(folders[0], log)
    shown = with_added([load_table(name) for name in table_names()] if tables is None else tables, folders[0])
    content = gather(rows, [*invalid, *invalid_weights], evidence, shown, every=tables is None)
    measured, invalid_figures = read_measured(folders[0], rows)
    content = replace(
        content,
        lines=with_inference(content.lines, measured),
        histories=histories(shown, every_row),
        sources=Sources(ClassTables(folders[0], rows), Tiles(plots, _plot_commands(shown))),
    )
    for line in invalid_row_lines([*invalid, *invalid_weights, *invalid_figures]):
        log(f"left out: {line}")
    return write(content, out, log, public)


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
    reported = {name: load_reported(name) for name in reported_names()}
    papers = summarize(shipped, reported, rows, published)
    lines = all_lines(tables, rows, published, papers if every else ())
    notes = [] if rows else ["Nothing has been trained here yet: the page has reported numbers and others' evidence."]
    left_out = [f"left out, as it is no result row: {printable(text)}" for text in invalid_row_lines(invalid)]
    named = {source.file for table in tables for source in table.reported}
    ranked = {name: numbers for name, numbers in reported.items() if every or name in named}
    commands = {table.name: f"kdbench run {table.argument}" for table in tables}
    return Content(lines, papers, notes + left_out, ranked, commands=commands)


def write(content: Content, out: Path, log: Callable[[str], None] = lambda _: None, public: bool = False) -> Path:
    """Write the report into a folder, over an earlier one; returns the page.

    Args:
        content: what it shows.
        out: the folder.
        log: gets the page's path.
        public: leave out paths and the name of this machine, refuse a folder with other files, and write what static
            hosts need.

    Raises:
        SpecError: a package that brings a library is missing.
        StoreError: the folder cannot be used.
    """
    check_installed()
    (check_publication if public else check_folder)(out)
    clean = redactor() if public else unchanged
    shards, details = write_details(content.lines, out, content.sources, clean)
    made = {Path("data/table.js"): script("kdbench.load", clean(packed(content.lines, shards)))}
    made |= figure_files.files(content.lines, content.histories, content.reported, content.commands, clean)
    made |= {Path("assets") / name: text for name, text in _assets().items()}
    before, after = listed(out), {path.as_posix() for path in made}
    list_files(out, before | after)
    for path, text in made.items():
        write_atomically(out / path, text.encode())
    write_atomically(out / FIGURES, figures_page().encode())
    write_atomically(out / INDEX, page(replace(content, notes=clean(content.notes))).encode())
    if public:
        write_atomically(out / ".nojekyll", b"")
    remove_files(out, before - after)
    remove_others(out, details)
    list_files(out, after)
    for problem in (*content.sources.tiles.problems, *content.sources.problems):
        log(f"left out: {problem}")
    log(f"{counted(len(content.lines), 'line')}: {out / INDEX}")
    return out / INDEX


def _plot_commands(tables: Sequence[Table]) -> dict[str, str]:
    return {table.name: f"kdbench plots {table.argument}" for table in tables}


def _assets() -> dict[str, str]:
    own = {file.name: file.read_text(encoding="utf-8") for file in (files(__package__) / "static").iterdir()}
    return {**datatables(), "plotly.min.js": plotly(), **own}


def figures_page() -> str:
    """The page of figures; what it shows is in scripts."""
    return _render("figures.html.j2", here=FIGURES, feed=figure_files.FEED.as_posix())


def page(content: Content) -> str:
    """The page of cells; everything that is not the project's text is escaped."""
    return _render(
        "index.html.j2",
        here=INDEX,
        headline=overview_text.headline(content.papers),
        papers=_papers(content.papers),
        headings={name: text.replace("-\n", "").replace("\n", " ") for name, text in overview_text.HEADERS.items()},
        reading=overview_text.notes(content.papers),
        notes=content.notes,
        filters=FILTERS,
        verdicts=DECIDED,
        lines=len(content.lines),
    )


def _render(template: str, **values: object) -> str:
    from ... import __version__

    environment = Environment(
        loader=PackageLoader("kdbench.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made = {"generator": f"{GENERATOR} {__version__}", "version": __version__}
    return environment.get_template(template).render(made | values)


def _papers(papers: Sequence[Summary]) -> list[dict[str, Any]]:
    """One record a paper of the overview, then the sum."""
    return [record | {"is_paper": record["paper"] in {p.name for p in papers}} for record in _records(papers)]


def _records(papers: Sequence[Summary]) -> list[dict[str, str]]:
    return [record for record in overview_text.records(papers) if not record["paper"].startswith(" ")]
