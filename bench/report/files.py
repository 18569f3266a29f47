"""Tables as files: CSV in raw numbers, one row a cell; Markdown and LaTeX as they are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..records.store import write_atomically
from ..spec.table import Table
from . import values
from .cells import Cell
from .sheet import HEADERS, Sheet

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "->": r"$\to$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "<=": r"$\leq$",
    "|": r"\textbar{}",
}


def write(sheet: Sheet, folder: Path) -> list[Path]:
    """`<folder>/<paper>-<dataset>.csv`, `.md` and `.tex`.

    Raises:
        StoreError: the folder cannot be written.
    """
    stem = sheet.table.name.replace("/", "-")
    contents = {
        "csv": raw(sheet.table, sheet.cells).to_csv(index=False, lineterminator="\n"),
        "md": markdown(sheet),
        "tex": latex(sheet),
    }
    paths = []
    for suffix, content in contents.items():
        path = folder / f"{stem}.{suffix}"
        write_atomically(path, content.encode())
        paths.append(path)
    return paths


def raw(table: Table, cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a cell. Metrics are in percent, times in seconds, costs in parameters and floating-point operations."""
    return pd.DataFrame([_raw(table, cell) for cell in cells])


def printed(sheet: Sheet) -> pd.DataFrame:
    """The table as it is printed, with the networks that run in the first column."""
    names = {name: HEADERS[name].replace("\n", " ") for name in sheet.columns}
    records = [
        {"teacher -> student": part.shown} | {names[name]: record[name] for name in names}
        for part in sheet.parts
        for record in part.records
    ]
    return pd.DataFrame(records, columns=["teacher -> student", *names.values()])


def markdown(sheet: Sheet) -> str:
    body = printed(sheet).map(lambda text: text.replace("|", "\\|"))
    table = body.to_markdown(index=False, disable_numparse=True)
    pairs = [f"- {part.shown}: {'; '.join(part.heading)}" for part in sheet.parts]
    notes = [f"- [{i}] {text}" for i, text in enumerate(sheet.footnotes, 1)]
    shows = ["What this run shows:", "", *(f"- {text}" for text in sheet.footer)]
    parts = [f"# {sheet.title}", "\n\n".join(sheet.header), table, "\n".join(pairs), "\n".join(notes), "\n".join(shows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(sheet: Sheet) -> str:
    """A `table` environment; needs the package booktabs."""
    frame = printed(sheet).map(escape)
    frame.columns = pd.Index([escape(str(name)) for name in frame.columns])
    body = frame.to_latex(index=False, escape=False, column_format="ll" + "r" * (len(frame.columns) - 2))
    notes = [f"[{i}] {escape(text)}" for i, text in enumerate(sheet.footnotes, 1)]
    small = [*map(escape, sheet.header), *notes, *map(escape, sheet.footer)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(sheet.title)}}}",
        rf"\label{{tab:{sheet.table.name.replace('/', '-')}}}",
        body.rstrip(),
        r"\par\footnotesize",
        *(rf"{text}\par" for text in small),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """`text` as LaTeX prints it literally."""
    out, i = "", 0
    while i < len(text):
        size = 2 if text[i : i + 2] in LATEX else 1
        out += LATEX.get(text[i : i + size], text[i : i + size])
        i += size
    return out


def _raw(table: Table, cell: Cell) -> dict[str, Any]:
    reported, measured, gain, cost = cell.reported, cell.measured, cell.gain, cell.cost
    agreement = {name: values.last(cell, name) for name in ("agreement", "agreement5")}
    learned = {name: one.mean for name, one in values.learned(cell).items()}
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
        "metric": cell.metric,
        "selection": cell.selection,
        "reported": cell.reported_value,
        "reported_std": reported.std if reported else None,
        "measured": measured.mean if measured else None,
        "sd": measured.sd if measured else None,
        "n": measured.n if measured else 0,
        "seeds": " ".join(str(row.run.seed) for row in cell.rows),
        "verdict": cell.verdict.word,
        "reason": cell.verdict.reason,
        "difference": cell.verdict.difference,
        "tolerance": cell.verdict.tolerance,
        "gain": gain.mean if gain else None,
        "gain_sd": gain.sd if gain else None,
        "gain_n": gain.n if gain else 0,
        **{name: one.mean if one else None for name, one in agreement.items()},
        "agreement_n": one.n if (one := agreement["agreement"]) else 0,
        "learned": json.dumps(learned) if learned else None,
        "teacher_reported": cell.teacher_reported,
        "teacher_measured": cell.teacher_measured,
        "params": cost.params if cost else None,
        "flops": cost.flops if cost else None,
        "images_per_second": cost.images_per_second if cost else None,
        "step_seconds": cost.step_seconds if cost else None,
        "prepare_seconds": cost.prepare_seconds if cost else None,
        "time_over_none": cost.factor if cost else None,
        "machine": "; ".join(cell.machines),
        "runs": " ".join(row.id for row in cell.rows),
        "source": reported.source if reported else None,
        "reported_by": reported.paper if reported else None,
        "reported_note": reported.note if reported else None,
        "notes": "; ".join(cell.notes),
    }
