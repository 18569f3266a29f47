"""A table in the paper's layout as LaTeX with booktabs, within one text width of an article.

Every size is fixed (8 points for numbers), so that a table fits a class of 10, 11 or 12 points alike. Pairs that do not
fit beside each other are stacked in blocks, and blocks that do not fit on a page are tables of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from ..text import one_line
from .latex import escape, width
from .packing import pack
from .paper import ALONE, MINI, TEACHER, Column, Entry, PaperRow, PaperView

TEXT_WIDTH = 345.0  # points; of `article` at 10 points, the narrowest of the usual classes
PAGE = 470.0  # points: highest table, without its caption and notes
LINE, RULES = 9.5, 30.0  # points: height of a line, and of a block's rules with the space below it
SIZE, SMALL, SUBSCRIPT = 8.0, 7.0, 6.0  # points: names and means, reported numbers, standard deviations
GAP = 6.0  # between pairs
INNER = 3.0  # between a measured number and the reported one
LABEL = 110.0  # widest column of methods that is not broken
NAME = 220.0  # points: widest name that is not shortened

NAMES = {TEACHER: "Teacher", ALONE: "Student"}


def latex(view: PaperView) -> str:
    """One `table` environment or several; a `table*` of a paper in two columns is as wide or wider."""
    shows_reported = _shows_reported(view)
    blocks = [(rows, columns) for columns in _columns(view) for rows in _rows(view, columns)]
    tables = pack([RULES + LINE * (3 + sum(map(_lines, rows))) for rows, _ in blocks], PAGE)
    head = [
        f"% {one_line(view.table.name)} at scale {view.scale}, written by `kdbench table --layout paper`",
        rf"% \usepackage{{booktabs}}{' and xcolor, which prints the reported numbers gray' if shows_reported else ''}",
        "% Fits one text width of an article; in a paper of two columns write table* for table.",
    ]
    if shows_reported:
        macro = rf"{{\fontsize{{{SMALL:g}}}{{8.5}}\selectfont\textcolor{{gray}}{{#1}}}}"
        head.append(rf"\providecommand{{\kdreported}}[1]{{{macro}}}")
    head += [f"% {one_line(remark)}" for remark in view.remarks]
    parts = [[_block(view, *blocks[i]) for i in part] for part in tables]
    return "\n".join([*head, *(_table(view, i, part, len(tables)) for i, part in enumerate(parts))])


def _table(view: PaperView, number: int, blocks: Sequence[str], count: int) -> str:
    stem = re.sub(r"[^A-Za-z0-9.+-]", "-", view.table.file_stem)
    caption = _caption(view) if number == 0 else _continued(view, number, count)
    notes = view.notes if number == count - 1 else ()
    lines = [
        r"\begin{table}[tp]",
        r"\centering\sloppy",
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{stem}{f'-{number + 1}' if number else ''}}}",
        rf"\fontsize{{{SIZE:g}}}{{9.5}}\selectfont",
        rf"\setlength{{\tabcolsep}}{{{GAP / 2:g}pt}}",
        "\n\\par\\medskip\n".join(blocks),
        *(rf"\par\smallskip{{\raggedright {escape(note, breakable=True)}\par}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _caption(view: PaperView) -> str:
    parts = [view.caption]
    if any(entry and entry.best for row in view.rows for entry in row.entries):
        parts.append("Bold: the best of a column.")
    if _shows_reported(view):
        parts.append(f"Gray: reported by {', '.join(view.reporters) or view.table.paper}.")
    return escape(" ".join(parts), breakable=True)


def _continued(view: PaperView, number: int, count: int) -> str:
    mini = f" ({MINI})" if view.scale == "mini" else ""
    return escape(f"{view.table.title}{mini}, part {number + 1} of {count}.", breakable=True)


def _shows_reported(view: PaperView) -> bool:
    return any(entry and entry.reported is not None for row in view.rows for entry in row.entries)


def _columns(view: PaperView) -> list[range]:
    """The pairs of each block."""
    page = TEXT_WIDTH - min(LABEL, _label_width(view.rows)) - GAP
    return pack([_width(view, i) for i in range(len(view.columns))], page)


def _width(view: PaperView, i: int) -> float:
    """Of one pair's two columns with their gap, points."""
    entries = [row.entries[i] for row in view.rows]
    parts = [max(map(inner, entries)) for inner in (lambda e: _measured_width(view, e), lambda e: _small(view, e))]
    column = view.columns[i]
    names = [column.teacher, column.student, column.variant]
    return GAP + max(sum(parts) + INNER, *(width(_short(name), SIZE) for name in names))


def _measured_width(view: PaperView, entry: Entry | None) -> float:
    if entry is None or entry.measured is None:
        return width("--", SIZE)
    sd = 0.0 if entry.measured.sd is None else width(f"±{view.mean(entry.measured.sd)}", SUBSCRIPT)
    return width(view.mean(entry.measured.mean), SIZE) + sd


def _small(view: PaperView, entry: Entry | None) -> float:
    return width(view.mean(entry.reported) + "†", SMALL) if entry and entry.reported is not None else 0.0


def _label_width(rows: Sequence[PaperRow]) -> float:
    return max((width(_short(NAMES.get(row.label, row.label)), SIZE) for row in rows), default=0.0)


def _rows(view: PaperView, columns: range) -> list[list[PaperRow]]:
    """The rows of a block that have an entry in its columns, in parts that fit a page."""
    rows = [row for row in view.rows if any(row.entries[i] is not None for i in columns)]
    parts = pack([LINE * _lines(row) for row in rows], PAGE - RULES - 3 * LINE)
    return [[rows[i] for i in part] for part in parts]


def _lines(row: PaperRow) -> int:
    """How many lines a row takes."""
    return 1 + int(width(_short(row.label), SIZE) / LABEL)


def _block(view: PaperView, rows: Sequence[PaperRow], columns: range) -> str:
    """One `tabular`."""
    wide = _label_width(view.rows) > LABEL
    label, pair = f"p{{{LABEL:g}pt}}" if wide else "l", rf"r@{{\hskip {INNER:g}pt}}l"
    body = [_line(view, row, columns, wide) for row in rows]
    references = sum(row.label in NAMES for row in rows)
    if 0 < references < len(rows):
        body.insert(references, r"\midrule")
    lines = [
        rf"\begin{{tabular}}{{@{{}}{label}{pair * len(columns)}@{{}}}}",
        r"\toprule",
        *_header([view.columns[i] for i in columns]),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _header(columns: Sequence[Column]) -> list[str]:
    """Teachers above students, and variants below where there are any."""
    lines = {"Teacher": [column.teacher for column in columns], "Student": [column.student for column in columns]}
    if any(column.variant for column in columns):
        lines[""] = [column.variant for column in columns]
    return [
        " & ".join([name, *(rf"\multicolumn{{2}}{{c}}{{{escape(_short(text))}}}" for text in texts)]) + r" \\"
        for name, texts in lines.items()
    ]


def _line(view: PaperView, row: PaperRow, columns: range, wide: bool) -> str:
    label = escape(_short(NAMES.get(row.label, row.label)), breakable=wide)
    cells = [text for i in columns for text in _cell(view, row.entries[i])]
    return " & ".join([rf"\raggedright {label}" if wide else label, *cells]) + r" \\"


def _cell(view: PaperView, entry: Entry | None) -> tuple[str, str]:
    """A measured number with its sd below the line, and the reported one."""
    if entry is None:
        return "--", ""
    measured = "--"
    if entry.measured is not None:
        mean = view.mean(entry.measured.mean).replace("-", "$-$")
        sd = "" if entry.measured.sd is None else rf"$_{{\pm {view.mean(entry.measured.sd)}}}$"
        measured = (rf"\textbf{{{mean}}}" if entry.best else mean) + sd
    if entry.reported is None:
        return measured, ""
    mark = "" if entry.comparable or entry.measured is None else r"$^\dagger$"
    return measured, rf"\kdreported{{{view.mean(entry.reported)}{mark}}}"


@cache
def _short(name: str) -> str:
    """A name with its middle left out where it is very long; CSV files have all of it."""
    head, tail = (len(name) + 1) // 2, len(name) // 2
    text = name
    while width(text, SIZE) > NAME:
        head, tail = head - 1, tail - 1
        text = f"{name[:head]}…{name[len(name) - tail :]}"
    return text
