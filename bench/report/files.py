"""Tables as files: CSV with unrounded numbers, one row a cell; Markdown and LaTeX as printed in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..records.store import write_atomically
from ..spec.table import Table
from ..text import markdown as cleaned
from ..text import markdown_cell, printable, spreadsheet_cell
from . import inference_cost, values
from .cells import Cell
from .evidence import KINDS, Kind
from .latex import escape
from .table_view import HEADERS, TableView

GAINS = ("gain", "gain_kd", "gain_base", "gain_equal", "gain_kd_equal")
"""Columns of gains in CSV files, by the names of `Cell`."""


def write(view: TableView, folder: Path) -> list[Path]:
    """`<folder>/<paper>-<dataset>.csv`, `.md` and `.tex`.

    Raises:
        StoreError: the folder cannot be written.
    """
    stem = view.table.file_stem
    contents = {
        "csv": csv_frame(view.table, view.cells).to_csv(index=False, lineterminator="\n"),
        "md": markdown(view),
        "tex": latex(view),
    }
    return write_contents(folder, stem, contents)


def write_contents(folder: Path, stem: str, contents: Mapping[str, str]) -> list[Path]:
    """Write `<folder>/<stem>.<suffix>` for the content of each suffix; returns the files.

    Raises:
        StoreError: the folder cannot be written.
    """
    paths = []
    for suffix, content in contents.items():
        path = folder / f"{stem}.{suffix}"
        write_atomically(path, content.encode())
        paths.append(path)
    return paths


def csv_frame(table: Table, cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a cell. Metrics are in percent, times in seconds, costs in parameters and floating-point operations."""
    frame = pd.DataFrame([_csv_record(table, cell) for cell in cells])
    return frame.map(lambda value: spreadsheet_cell(printable(value)) if isinstance(value, str) else value)


def printed_frame(view: TableView) -> pd.DataFrame:
    """The table as printed, with the networks that run in the first column."""
    names = {name: HEADERS[name].replace("\n", " ") for name in view.columns}
    records = [
        {"teacher -> student": block.title} | {names[name]: record[name] for name in names}
        for block in view.blocks
        for record in block.records
    ]
    return pd.DataFrame(records, columns=["teacher -> student", *names.values()])


def markdown(view: TableView) -> str:
    """The printed table with its header, footnotes and footer."""
    body = printed_frame(view).map(markdown_cell)
    table = body.to_markdown(index=False, disable_numparse=True)
    pairs = [f"- {cleaned(block.title)}: {cleaned('; '.join(block.heading))}" for block in view.blocks]
    notes = [f"- [{i}] {cleaned(text)}" for i, text in enumerate(view.footnotes, 1)]
    reading = ["How to read this table:", "", *(f"- {cleaned(text)}" for text in view.footer)]
    header = "\n\n".join(map(cleaned, view.header))
    parts = [f"# {cleaned(view.title)}", header, table, "\n".join(pairs), "\n".join(notes), "\n".join(reading)]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(view: TableView) -> str:
    """A `table` environment with every column, wider than a page; needs the package booktabs."""
    frame = printed_frame(view).map(escape)
    frame.columns = frame.columns.map(escape)
    body = frame.to_latex(index=False, escape=False, column_format="ll" + "r" * (len(frame.columns) - 2))
    notes = [f"[{i}] {text}" for i, text in enumerate(view.footnotes, 1)]
    title, *small = (escape(text) for text in [view.title, *view.header, *notes, *view.footer])
    lines = [
        f"% All {len(frame.columns)} columns, wider than a page: `kdbench table --layout paper` writes a table of one "
        "text width.",
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{title}}}",
        rf"\label{{tab:{view.table.file_stem}}}",
        body.rstrip(),
        r"\par\footnotesize",
        *(rf"{text}\par" for text in small),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _csv_record(table: Table, cell: Cell) -> dict[str, Any]:
    measured, cost = cell.measured, cell.cost
    reported, teacher_reported = (cell.reported, cell.teacher_reported) if cell.scale == "full" else (None, None)
    agreement = {name: values.last(cell, name) for name in ("agreement", "agreement5")}
    learned = {name: sample.mean for name, sample in values.learned(cell).items()}
    return {
        "table": table.name,
        "scale": cell.scale,
        "teacher": cell.pair.teacher,
        "student": cell.pair.student,
        "teacher_network": cell.teacher,
        "student_network": cell.student,
        "method": cell.entry.method,
        "label": cell.label,
        "options": None if cell.options is None else json.dumps(cell.options, sort_keys=True),
        "settings": cell.settings or None,
        "metric": cell.metric,
        "selection": cell.selection,
        "reported": reported.value if reported else None,
        "reported_std": reported.std if reported else None,
        **{name: value for kind in KINDS for name, value in _evidence(cell, kind).items()},
        "measured": measured.mean if measured else None,
        "sd": measured.sd if measured else None,
        "n": measured.n if measured else 0,
        "seeds": " ".join(str(row.run.seed) for row in cell.rows),
        "verdict": cell.verdict.word,
        "reason": cell.verdict.reason,
        "difference": cell.verdict.difference,
        "tolerance": cell.verdict.tolerance,
        **{name: value for gain in GAINS for name, value in _gain(cell, gain).items()},
        **{name: sample.mean if sample else None for name, sample in agreement.items()},
        "agreement_n": sample.n if (sample := agreement["agreement"]) else 0,
        "learned": json.dumps(learned) if learned else None,
        "teacher_reported": teacher_reported,
        "teacher_measured": cell.teacher_measured,
        "params": cost.params if cost else None,
        "flops": cost.flops if cost else None,
        "images_per_second": cost.images_per_second if cost else None,
        "step_seconds": cost.step_seconds if cost else None,
        "prepare_seconds": cost.prepare_seconds if cost else None,
        "data_wait": cost.data_wait if cost else None,
        "precision": cell.rows[0].run.recipe.precision if cell.rows else None,
        "time_over_none": cost.factor if cost else None,
        "time_over_kd": cost.factor_kd if cost else None,
        "machine": "; ".join(cell.machines),
        **(inference_cost.figures(cell.inference) if cell.inference else {}),
        "runs": " ".join(row.id for row in cell.rows),
        "source": reported.source if reported else None,
        "reported_by": reported.paper if reported else None,
        "reported_note": reported.note if reported else None,
        "notes": "; ".join(cell.notes),
    }


def _gain(cell: Cell, name: str) -> dict[str, Any]:
    sample = getattr(cell, name)
    return {
        name: sample.mean if sample else None,
        f"{name}_sd": sample.sd if sample else None,
        f"{name}_n": sample.n if sample else 0,
    }


def _evidence(cell: Cell, kind: Kind) -> dict[str, Any]:
    """One kind of evidence as columns that begin with its name; `_found` counts the runs that are left out, too."""
    found = cell.evidence.get(kind)
    return {
        kind: found.sample.mean if found else None,
        f"{kind}_sd": found.sample.sd if found else None,
        f"{kind}_n": found.sample.n if found else 0,
        f"{kind}_found": found.found if found else 0,
        f"{kind}_selection": found.selection if found else None,
        f"{kind}_verdict": found.verdict.word if found else None,
        f"{kind}_reason": found.verdict.reason if found else None,
        f"{kind}_difference": found.verdict.difference if found else None,
        f"{kind}_tolerance": found.verdict.tolerance if found else None,
        f"{kind}_source": "; ".join(found.sources) if found else None,
        f"{kind}_notes": "; ".join(found.notes) if found else None,
    }
