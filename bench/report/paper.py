"""A table as papers print it: methods down, teacher-student pairs across, measured and reported numbers in cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .. import tasks
from ..spec.scale import Scale
from ..spec.table import Table
from ..text import counted, shortened
from .blocks import Block, blocks
from .cells import Cell
from .own_data import has_results
from .summary import selection_title
from .values import metric_title
from .verdicts import Sample

TEACHER, ALONE = "teacher", "student alone"
MINI = "mini scale: no evidence about a method"
LISTED = 6  # notes about single cells, at most


@dataclass(frozen=True)
class Column:
    """A pair: the paper's names at full scale, the small networks at mini scale, and a variant of data or strategy."""

    teacher: str
    student: str
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.teacher} -> {self.student}" + (f", {self.variant}" if self.variant else "")


@dataclass(frozen=True)
class Entry:
    """The numbers of one method and pair, percent.

    Attributes:
        measured: over seeds; None without a number.
        reported: by the paper; always None at mini scale.
        comparable: whether measured may be compared with reported.
        best: of the measured students of its column, as printed.
    """

    measured: Sample | None = None
    reported: float | None = None
    comparable: bool = True
    best: bool = False


@dataclass(frozen=True)
class PaperRow:
    """A method, or the teachers; an entry is None where the pair has no such method."""

    label: str
    entries: tuple[Entry | None, ...]


@dataclass(frozen=True)
class PaperView:
    """Everything that is printed of one table in the paper's layout.

    Attributes:
        table: as it is.
        scale: "full" or "mini".
        columns: pairs.
        rows: the teachers, the students alone, then methods.
        digits: decimals of every number.
        caption: what is shown: metric, epoch, seeds.
        reporters: papers that the reported numbers are from.
        notes: what a reader has to know about single cells.
        remarks: what the author has to know.
    """

    table: Table
    scale: Scale
    columns: tuple[Column, ...]
    rows: tuple[PaperRow, ...]
    digits: int
    caption: str
    reporters: tuple[str, ...]
    notes: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def references(self) -> int:
        """How many of the first rows are no methods."""
        return sum(row.label in (TEACHER, ALONE) for row in self.rows[:2])

    def mean(self, value: float | None) -> str:
        """A number as printed; a dash for none."""
        return "-" if value is None else f"{value:.{self.digits}f}"


def paper_view(table: Table, cells: Sequence[Cell], scale: Scale) -> PaperView:
    """The table with its cells at a scale.

    Pairs without a run are left out, if any has one; methods are left out that have neither a run nor a reported
    number.
    """
    everything = blocks(cells)
    shown = _with_results(everything) or (everything if scale == "full" else [])
    rows = [_teachers(shown, scale), *(_row(label, shown, scale) for label in _labels(shown))]
    rows = [row for row in rows if any(entry and (entry.measured or entry.reported) for entry in row.entries)]
    digits = tasks.metric(table.task, table.metric).digits
    shown_cells = [line.cell for block in shown for line in block.lines]
    return PaperView(
        table=table,
        scale=scale,
        columns=tuple(_column(block, scale) for block in shown) if rows else (),
        rows=tuple(_with_best(rows, digits)),
        digits=digits,
        caption=_caption(table, shown_cells, scale),
        reporters=_reporters(shown_cells, scale),
        notes=tuple(_notes(shown, scale)),
        remarks=tuple(_remarks(shown_cells, len(everything) - len(shown))),
    )


def _with_results(grouped: Sequence[Block]) -> list[Block]:
    return [block for block in grouped if has_results(line.cell for line in block.lines)]


def _column(block: Block, scale: Scale) -> Column:
    pair = block.pairs[0]
    variant = [f"{name} {value}" for name, value in sorted(block.lines[0].cell.data.items())] if block.lines else []
    if scale == "full":
        return Column(pair.teacher, pair.student, ", ".join(filter(None, [pair.strategy, *variant])))
    return Column(block.teacher or pair.teacher, block.student or pair.student, ", ".join(variant))


def _labels(grouped: Sequence[Block]) -> list[str]:
    """Labels of lines in the order of the blocks, those of students alone first."""
    lines = [line for block in grouped for line in block.lines]
    return list(dict.fromkeys(line.label for line in sorted(lines, key=lambda line: line.cell.entry.method != "none")))


def _row(label: str, grouped: Sequence[Block], scale: Scale) -> PaperRow:
    found = [next((line.cell for line in block.lines if line.label == label), None) for block in grouped]
    entries = tuple(None if cell is None else _entry(cell, scale) for cell in found)
    return PaperRow(ALONE if label == "none" else label, entries)


def _entry(cell: Cell, scale: Scale) -> Entry:
    reported = cell.reported_value if scale == "full" else None
    return Entry(cell.measured, reported, comparable=reported is None or not _is_incomparable(cell))


def _is_incomparable(cell: Cell) -> bool:
    return cell.verdict.word == "not comparable" and cell.scale == "full" and cell.reported_value is not None


def _teachers(grouped: Sequence[Block], scale: Scale) -> PaperRow:
    entries = []
    for block in grouped:
        reported = block.lines[0].cell.teacher_reported if scale == "full" and block.lines else None
        measured = block.teacher_measured
        entries.append(Entry(None if measured is None else Sample(measured, None, 1), reported))
    return PaperRow(TEACHER, tuple(entries))


def _with_best(rows: Sequence[PaperRow], digits: int) -> list[PaperRow]:
    """The rows with the best students marked, of several in a column; those that print the same number are equal."""
    best: dict[int, str] = {}
    students = [row for row in rows if row.label != TEACHER]
    for i in range(len(students[0].entries) if students else 0):
        means = [entry.measured.mean for row in students if (entry := row.entries[i]) and entry.measured]
        if len(means) > 1:
            best[i] = f"{max(means):.{digits}f}"

    def marked(i: int, entry: Entry | None) -> Entry | None:
        if entry is None or entry.measured is None:
            return entry
        return replace(entry, best=f"{entry.measured.mean:.{digits}f}" == best.get(i))

    return [
        row if row.label == TEACHER else replace(row, entries=tuple(marked(*each) for each in enumerate(row.entries)))
        for row in rows
    ]


def _caption(table: Table, cells: Sequence[Cell], scale: Scale) -> str:
    """`Title. Top-1 accuracy in percent, last epoch, mean ± sample sd over 3 seeds.`"""
    names = sorted({row.run.data.name for cell in cells for row in cell.rows})
    data = f"data: {', '.join(names)}" if names and (scale == "mini" or not table.reported) else ""
    details = "; ".join(filter(None, [MINI if scale == "mini" else "", data]))
    title = table.title + (f" ({details})" if details else "")
    counts = sorted({cell.measured.n for cell in cells if cell.measured})
    metric = metric_title(table)
    what = f"{metric[:1].upper()}{metric[1:]} in percent, {selection_title(cells, table)}"
    return f"{title[:1].upper()}{title[1:]}. {what}{_seeds(counts)}."


def _seeds(counts: Sequence[int]) -> str:
    """Of how many seeds the means are."""
    if not counts:
        return ""
    if counts[-1] == 1:
        return ", one seed (n=1)"
    several = [count for count in counts if count > 1]
    over = f"{several[0]} to {several[-1]}" if len(several) > 1 else str(several[0])
    return f", mean ± sample sd over {over} seeds (without sd: n=1)"


def _reporters(cells: Sequence[Cell], scale: Scale) -> tuple[str, ...]:
    if scale == "mini":
        return ()
    return tuple(dict.fromkeys(cell.reported.paper for cell in cells if cell.reported))


def _notes(grouped: Sequence[Block], scale: Scale) -> list[str]:
    """Runs without a number, seeds that a mean leaves out, and why numbers are not comparable."""
    failed: list[str] = []
    reasons: dict[str, int] = {}
    for block in grouped:
        for line in block.lines:
            cell, where = line.cell, f"{line.label} ({_column(block, scale).name})"
            if cell.unfinished and cell.measured is None:
                failed.append(f"{where}: {shortened(cell.verdict.text, 120)}")
            elif cell.unfinished:
                seeds = ", ".join(f"seed {row.run.seed} {row.status}" for row in cell.unfinished)
                failed.append(f"{where}: {seeds}, not in the mean")
            if _is_incomparable(cell) and cell.measured:
                for reason in cell.verdict.reason.split("; "):
                    reasons[reason] = reasons.get(reason, 0) + 1
    because = _first([f"{shortened(why, 200)} ({counted(n, 'cell')})" for why, n in reasons.items()])
    return _first(failed) + ([f"†: not comparable with the reported number: {'; '.join(because)}"] if because else [])


def _remarks(cells: Sequence[Cell], left_out: int) -> list[str]:
    """Pairs that are left out, and cells whose rows are stale."""
    remarks = [f"left out: {counted(left_out, 'pair')} without a run"] if left_out else []
    if stale := sum(any(note.startswith("stale:") for note in cell.notes) for cell in cells):
        remarks.append(f"stale: code or teacher has changed since the runs of {counted(stale, 'cell')}")
    return remarks


def _first(notes: Sequence[str]) -> list[str]:
    more = len(notes) - LISTED
    return [*notes[:LISTED], *([f"{more} more (`--layout evidence` lists all)"] if more > 0 else ())]
