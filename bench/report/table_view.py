"""A table as strings, the same for the terminal, Markdown and LaTeX: blocks of lines, and numbered footnotes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..spec.scale import Scale
from ..spec.table import Table
from . import inference, inference_cost, values
from .blocks import Block, Line, blocks, with_runs
from .cells import Cell
from .evidence import KINDS
from .own_data import has_results
from .summary import footer, header

HEADERS = {
    "method": "method",
    "settings": "authors'\noptions",
    "reported": "reported",
    "reruns": "others' runs ± sd (n)\ndifference, verdict",
    "logs": "authors' logs ± sd (n)\ndifference, verdict",
    "weights": "published weights (n)\ndifference, verdict",
    "measured": "measured\n± sd (n)",
    "difference": "diff /\ntolerance",
    "verdict": "verdict",
    "agreement": "agreement\nwith teacher",
    "gain": "gain over none\n± 95 % (n)",
    "gain_kd": "gain over kd\n± 95 % (n)",
    "gain_base": "gain over its base\n± 95 % (n)",
    "gain_equal": "gain over none at\nequal cost ± 95 % (n)",
    "gain_kd_equal": "gain over kd at\nequal cost ± 95 % (n)",
    "gain_per_time": "gain per extra\ntraining time",
    "time": "time",
    "params": "params\nM",
    "gflops": "GFLOPs",
    "throughput": "images\n/s",
    "step": "step\nms",
    **{name: heading for name, (heading, _) in inference_cost.COLUMNS.items()},
}
"""Columns in order; headings are broken at the line feed."""

AGREEMENT = (
    "Agreement: percent of the validation images on which the saved student's class is its teacher's; of teachers that "
    "were trained with it, the first one after its last step."
)

EQUAL_COST = {"gain_equal", "gain_kd_equal"}

AT_EQUAL_COST = (
    "At equal cost: `none` or `kd` trained for as long as the method takes, its cost over theirs rounded to quarters; "
    "the plain gain where that is 1 or less, so a method that takes less time than `kd` is not given more."
)

COSTS = (
    *("gain_equal", "gain_kd_equal", "gain_per_time", "time", "params", "gflops", "throughput", "step"),
    *inference_cost.COLUMNS,
)


@dataclass
class Footnotes:
    """Numbers texts in the order in which they are first marked."""

    texts: list[str] = field(default_factory=list)

    def mark(self, texts: Sequence[str]) -> str:
        """` [1,2]` for texts; an empty string for none."""
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
        numbers = sorted({self.texts.index(text) + 1 for text in texts})
        return f" [{','.join(map(str, numbers))}]" if numbers else ""


@dataclass(frozen=True)
class BlockView:
    """One block as strings: heading lines, then one record a method, by the keys of `HEADERS`."""

    title: str
    heading: tuple[str, ...]
    records: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class TableView:
    """Everything that is printed of one table."""

    table: Table
    scale: Scale
    cells: tuple[Cell, ...]
    title: str
    header: tuple[str, ...]
    columns: tuple[str, ...]
    blocks: tuple[BlockView, ...]
    footnotes: tuple[str, ...]
    footer: tuple[str, ...]


def table_view(table: Table, cells: Sequence[Cell], scale: Scale) -> TableView:
    """The table with its cells at a scale, as strings; columns without any value are left out.

    At mini scale no reported number is shown, so a method without a run has nothing to print and is left out, if any
    has one.
    """
    notes = Footnotes()
    grouped = blocks(cells)
    if scale == "mini" and has_results(cells):
        grouped = with_runs(grouped)
    views = tuple(_block_view(table, block, notes) for block in grouped)
    columns = _columns(table, cells, views, scale)
    top, bottom = header(table, cells, scale), footer(table, cells, grouped, scale)
    if "gain_base" in columns:
        bottom.append(_bases(cells))
    if EQUAL_COST & set(columns):
        bottom.append(AT_EQUAL_COST)
    bottom += inference.notes(cells)
    if "agreement" in columns:
        bottom.append(AGREEMENT)
    title = f"{table.name}: {table.title} ({scale} scale)"
    return TableView(table, scale, tuple(cells), title, tuple(top), columns, views, tuple(notes.texts), tuple(bottom))


def _columns(table: Table, cells: Sequence[Cell], views: Sequence[BlockView], scale: Scale) -> tuple[str, ...]:
    """The columns in which some line has a value; at mini scale no reported number is shown beside a measured one."""
    empty = {"reported", "settings", "difference"} if scale == "mini" or not table.reported else set()
    gains = ("gain_kd", "gain_base", *EQUAL_COST)
    empty |= {name for name in gains if all(getattr(cell, name) is None for cell in cells)}
    records = [record for view in views for record in view.records]
    optional = (
        "settings",
        "agreement",
        *KINDS,
        *inference_cost.COLUMNS,
        *(() if any(cell.rows for cell in cells) else ("difference", "gain", *COSTS)),
    )
    empty |= {name for name in optional if all(record[name] == values.BLANK for record in records)}
    return tuple(name for name in HEADERS if name not in empty)


def _bases(cells: Sequence[Cell]) -> str:
    """Which methods are compared with which, beside the student alone."""
    bases: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.gain_base is not None:
            bases.setdefault(str(cell.entry.gain_over), {})[cell.label] = None
    comparisons = [f"{', '.join(labels)} over {base}" for base, labels in bases.items()]
    return f"Bases: {'; '.join(comparisons)}."


def _block_view(table: Table, block: Block, notes: Footnotes) -> BlockView:
    records = tuple(_record(table, block, line, notes) for line in block.lines)
    return BlockView(block.title, tuple(_heading(table, block)), records)


def _heading(table: Table, block: Block) -> list[str]:
    """The paper's pairs where other networks run, the teacher's scores, and notes."""
    notes = [f"note: {note}" for note in dict.fromkeys(pair.note for pair in block.pairs) if note]
    measured = values.number(block.teacher_measured)
    if not table.reported:
        return [f"teacher: {measured}", *notes]
    lines = [f"proxy for {pair}" for pair in block.paper_pairs]
    if len(lines) > 3:
        lines = [f"proxy for {len(lines)} pairs: {', '.join(block.paper_pairs)}"]
    cell = block.lines[0].cell
    if cell.scale == "mini":
        return [*lines, f"teacher: {measured}", *notes]
    reported = values.number(cell.teacher_reported, 1)
    return [*lines, f"teacher: reported {reported}, re-measured {measured}", *notes]


def _record(table: Table, block: Block, line: Line, notes: Footnotes) -> dict[str, str]:
    cell = line.cell
    remarks = list(dict.fromkeys(note for same in line.cells for note in same.notes)) + values.learned_note(cell)
    return {
        "method": line.label + notes.mark(remarks),
        "settings": cell.settings or values.BLANK,
        "reported": values.reported(table, cell) + notes.mark(_about_reported(table, line)),
        **{kind: values.evidence(cell, kind) + notes.mark(values.evidence_notes(cell, kind)) for kind in KINDS},
        "measured": values.sample(cell.measured),
        "difference": values.difference(cell),
        "verdict": _verdict(cell, notes),
        "agreement": values.sample(values.last(cell, "agreement")),
        "gain": values.gain(cell.gain),
        "gain_kd": values.gain(cell.gain_kd),
        "gain_base": values.gain(cell.gain_base),
        "gain_equal": values.gain(cell.gain_equal),
        "gain_kd_equal": values.gain(cell.gain_kd_equal),
        "gain_per_time": values.gain_per_time(cell),
        "time": values.time_factor(cell),
        "params": values.params(cell),
        "gflops": values.gflops(cell),
        "throughput": values.throughput(cell) + notes.mark(values.throughput_notes(cell)),
        "step": values.step(cell),
        **inference_cost.record(cell.inference),
    }


def _verdict(cell: Cell, notes: Footnotes) -> str:
    """The verdict's word; its reason is a footnote, unless it is short or the line already says it."""
    verdict = cell.verdict
    if verdict.reason == "mini":
        return verdict.text
    if not verdict.reason or (verdict.word, verdict.reason) == ("measured", "no reported number"):
        return verdict.word
    return verdict.word + notes.mark([verdict.reason])


def _about_reported(table: Table, line: Line) -> list[str]:
    """What the sources say about a reported number; nothing at mini scale, where it is not shown."""
    reported = line.cell.reported
    if reported is None or line.cell.scale == "mini":
        return []
    quoted = f"reported by {reported.paper}" if reported.paper != table.paper else ""
    weak = f"evidence: {reported.evidence}" if reported.evidence != "primary" else ""
    return [text for text in (quoted, reported.note, weak) if text]
