"""A table as strings, ready for the terminal, Markdown and LaTeX alike: blocks of lines, and numbered footnotes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..spec.recipe import Scale
from ..spec.table import Table
from . import values
from .blocks import Block, Line, blocks
from .cells import Cell
from .summary import footer, header

HEADERS = {
    "method": "method",
    "reported": "reported",
    "measured": "measured\n± sd (n)",
    "against": "diff /\ntolerance",
    "verdict": "verdict",
    "agreement": "agreement\nwith teacher",
    "gain": "gain over\nnone",
    "gain_kd": "gain over\nkd",
    "gain_base": "gain over\nits base",
    "gain_equal": "gain at\nequal cost",
    "worth": "gain per\n+100 % time",
    "times": "time",
    "params": "params\nM",
    "gflops": "GFLOPs",
    "throughput": "images\n/s",
    "step": "step\nms",
}
"""Columns in order; a narrow terminal breaks headings at the line feed."""

AGREEMENT = (
    "Agreement: percent of the validation images on which the saved student's class is its teacher's; of teachers that "
    "learned beside it, the first as it ended."
)

COSTS = ("gain_equal", "worth", "times", "params", "gflops", "throughput", "step")


@dataclass
class Footnotes:
    """Numbers texts in the order in which they are first marked."""

    texts: list[str] = field(default_factory=list)

    def mark(self, texts: Sequence[str]) -> str:
        """` [1,2]` for texts; nothing for none."""
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
        numbers = sorted({self.texts.index(text) + 1 for text in texts})
        return f" [{','.join(map(str, numbers))}]" if numbers else ""


@dataclass(frozen=True)
class Part:
    """One block: heading lines, then one record of strings a method, by the keys of `HEADERS`."""

    shown: str
    heading: tuple[str, ...]
    records: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Sheet:
    """Everything that is printed of one table."""

    table: Table
    scale: Scale
    cells: tuple[Cell, ...]
    title: str
    header: tuple[str, ...]
    columns: tuple[str, ...]
    parts: tuple[Part, ...]
    footnotes: tuple[str, ...]
    footer: tuple[str, ...]


def sheet(table: Table, cells: Sequence[Cell], scale: Scale) -> Sheet:
    notes = Footnotes()
    found = blocks(cells)
    parts = tuple(_part(table, block, notes) for block in found)
    idle = {"against"} if scale == "mini" else set()
    for name in ("gain_kd", "gain_base", "gain_equal"):
        if all(getattr(cell, name) is None for cell in cells):
            idle.add(name)
    if all(record["agreement"] == values.BLANK for part in parts for record in part.records):
        idle.add("agreement")
    columns = tuple(name for name in HEADERS if name not in idle)
    title = f"{table.name}: {table.title} ({scale} scale)"
    top, bottom = header(table, cells, scale), footer(table, cells, found, scale)
    if "gain_base" in columns:
        bottom.append(_bases(cells))
    if "agreement" in columns:
        bottom.append(AGREEMENT)
    return Sheet(table, scale, tuple(cells), title, tuple(top), columns, parts, tuple(notes.texts), tuple(bottom))


def _bases(cells: Sequence[Cell]) -> str:
    """Which methods are set against which, beside the student alone."""
    bases: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.gain_base is not None:
            bases.setdefault(str(cell.entry.against), {})[cell.label] = None
    said = [f"{', '.join(labels)} over {base}" for base, labels in bases.items()]
    return f"Bases: {'; '.join(said)}."


def _part(table: Table, block: Block, notes: Footnotes) -> Part:
    records = tuple(_record(table, block, line, notes) for line in block.lines)
    return Part(block.shown, tuple(_heading(block)), records)


def _heading(block: Block) -> list[str]:
    lines = [f"stands for {paper}" for paper in block.papers]
    if len(lines) > 3:
        lines = [f"stands for {len(lines)} pairs: {', '.join(block.papers)}"]
    elif len(lines) > 1:
        lines[-1] += " (reported numbers in this order)"
    teachers = [cell.teacher_reported for cell in _first_of_each_pair(block)]
    known = list(dict.fromkeys(values.number(value, 1) for value in teachers))
    reported = " / ".join(known) if len(known) <= 3 else f"{len(known)} values"
    measured = values.number(block.teacher_measured)
    lines.append(f"teacher: reported {reported}, re-measured {measured}")
    lines += [f"note: {note}" for note in dict.fromkeys(pair.note for pair in block.pairs) if note]
    return lines


def _first_of_each_pair(block: Block) -> list[Cell]:
    cells = [cell for line in block.lines for cell in line.cells]
    return [next(cell for cell in cells if cell.pair is pair) for pair in block.pairs]


def _record(table: Table, block: Block, line: Line, notes: Footnotes) -> dict[str, str]:
    cell = line.cell
    remarks = list(dict.fromkeys(note for one in line.cells for note in one.notes)) + values.learned_note(cell)
    shown = cell.verdict.text if cell.verdict.reason == "mini" else cell.verdict.word
    reasons = [cell.verdict.reason] if cell.verdict.reason and cell.verdict.reason != "mini" else []
    if cell.verdict.word == "measured" and cell.verdict.reason == "no reported number":
        reasons = []
    return {
        "method": line.label + notes.mark(remarks),
        "reported": values.reported(block, line) + notes.mark(_about_reported(table, line)),
        "measured": values.sample(cell.measured),
        "against": values.against(cell),
        "verdict": shown + notes.mark(reasons),
        "agreement": values.sample(values.last(cell, "agreement")),
        "gain": values.sample(cell.gain, signed=True),
        "gain_kd": values.sample(cell.gain_kd, signed=True),
        "gain_base": values.sample(cell.gain_base, signed=True),
        "gain_equal": values.sample(cell.gain_equal, signed=True),
        "worth": values.worth(cell),
        "times": values.times(cell),
        "params": values.params(cell),
        "gflops": values.gflops(cell),
        "throughput": values.throughput(cell),
        "step": values.step(cell),
    }


def _about_reported(table: Table, line: Line) -> list[str]:
    """What the sources say about a reported number; left out at mini scale, where nothing is set against it."""
    reported = line.cell.reported
    if reported is None or line.cell.scale == "mini":
        return []
    quoted = f"reported by {reported.paper}" if reported.paper != table.paper else ""
    weak = f"evidence: {reported.evidence}" if reported.evidence != "primary" else ""
    return [text for text in (quoted, reported.note, weak) if text]
