"""Lines of the page's table: the cells of all tables, and the reported numbers that no table has a cell for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ... import tasks
from ...records.row import Row
from ...spec.reported import Reported
from ...spec.scale import Scale
from ...spec.schema import digest
from ...spec.table import Table
from .. import inference
from ..blocks import blocks, with_runs
from ..cells import Cell, collect
from ..evidence import Evidence, Kind, Published
from ..inference import Measured
from ..overview import Entry, Summary, strongest
from ..own_data import has_results, own_tables
from ..verdicts import Verdict, noise_budget

NO_TABLE = "no table"
"""Verdict of a reported number that no table has a cell for, and that no evidence decides."""

BASES = {"cell": "trained here", "reruns": "others' runs", "weights": "published weights"}
"""What a verdict rests on, in words."""


@dataclass(frozen=True)
class Line:
    """One line of the page's table.

    Attributes:
        id: of its file of details and its permalink; the same in every build.
        table: name; empty for a number that no table has a cell for.
        teacher, student: the paper's networks at full scale, those that run at mini scale.
        strategy: the paper's name for a recipe, where one of its tables has several.
        reported: None at mini scale, where it is not compared.
        verdict: of the strongest evidence that can be compared, else that of the runs here.
        basis: what a verdict that compares rests on.
        budget: noise of one run, percent; None for a metric of no task.
    """

    id: str
    task: str
    dataset: str
    paper: str
    table: str
    teacher: str
    student: str
    method: str
    strategy: str
    metric: str
    scale: Scale
    reported: Reported | None
    evidence: Mapping[Kind, Evidence]
    verdict: str
    basis: str
    budget: float | None
    cell: Cell | None = None
    pairs: tuple[str, ...] = ()

    @property
    def own_verdict(self) -> Verdict | None:
        """Of what was trained here."""
        return self.cell.verdict if self.cell else None


def all_lines(
    tables: Sequence[Table], rows: Sequence[Row], published: Published, papers: Iterable[Summary] = ()
) -> list[Line]:
    """Every cell at full scale and every one with a result at mini scale, then numbers without a cell.

    Lines with a measurement come first, those at full scale before those at mini scale, then those that
    other evidence decides, then those with any, else in the order of tables and papers.

    Args:
        tables: whose cells are shown.
        rows: what was trained here.
        published: what others published.
        papers: whose numbers without a cell are shown too.

    Raises:
        SpecError, MethodError: a table, recipe or file of numbers is missing or wrong.
    """
    lines = [line for table in tables for line in _of_table(table, rows, published)]
    lines += [_of_number(entry) for paper in papers for entry in paper.entries if entry.cell is None]
    return sorted(_with_distinct_ids(lines), key=_interest)


def with_inference(lines: Sequence[Line], measured: Measured) -> list[Line]:
    """The lines with the cost of inference of their students, all of one machine and number of threads."""
    cells = iter(inference.with_inference([line.cell for line in lines if line.cell], measured))
    return [replace(line, cell=next(cells)) if line.cell else line for line in lines]


def _with_distinct_ids(lines: Iterable[Line]) -> Iterator[Line]:
    """Lines that only a recipe tells apart get a number after the id."""
    seen: Counter[str] = Counter()
    for line in lines:
        seen[line.id] += 1
        yield line if seen[line.id] == 1 else replace(line, id=f"{line.id}-{seen[line.id]}")


def _interest(line: Line) -> int:
    if line.cell and line.cell.measured:
        return 0 if line.scale == "full" else 1
    if line.basis:
        return 2
    if line.evidence or (line.cell and line.cell.unfinished):
        return 3
    return 4 if line.cell else 5


def _of_table(table: Table, rows: Sequence[Row], published: Published) -> Iterator[Line]:
    """Lines of a table and of those of a user's data in its recipes; the latter have results alone."""
    for each in (table, *own_tables(table, rows)):
        for scale in ("full", "mini"):
            cells = collect(each, rows, scale, published)
            grouped = blocks(cells)
            if scale == "mini" or each is not table:
                grouped = with_runs(grouped) if has_results(cells) else []
            for block in grouped:
                for line in block.lines:
                    yield _of_cell(each, line.cell, tuple(block.paper_pairs))


def _of_cell(table: Table, cell: Cell, pairs: tuple[str, ...]) -> Line:
    mini = cell.scale == "mini"
    teacher = (cell.teacher if mini else None) or cell.pair.teacher
    student = (cell.student if mini else None) or cell.pair.student
    data: str = getattr(table.dataset, cell.scale)
    variant = "".join(f" {name}={value}" for name, value in sorted(cell.data.items()))
    reported = None if mini else cell.reported
    decided = strongest(cell, cell.evidence)
    return Line(
        id=_id(table.name, cell.scale, teacher, student, cell.label, data + variant, cell.pair.strategy or ""),
        task=table.task,
        dataset=data + variant,
        paper=reported.paper if reported else table.paper,
        table=table.name,
        teacher=teacher,
        student=student,
        method=cell.label,
        strategy=cell.pair.strategy or "",
        metric=cell.metric,
        scale=cell.scale,
        reported=reported,
        evidence=cell.evidence,
        verdict=(decided[1] if decided else cell.verdict).word,
        basis=BASES[decided[0]] if decided else "",
        budget=noise_budget(table.dataset.full, table.task),
        cell=cell,
        pairs=pairs if mini else (),
    )


def _of_number(entry: Entry) -> Line:
    number, task = entry.reported, tasks.with_metric(entry.reported.metric)
    decided = strongest(None, entry.evidence)
    return Line(
        id=_id(*number.key, number.value),
        task=task or "",
        dataset=number.dataset,
        paper=number.paper,
        table="",
        teacher=number.teacher,
        student=number.student,
        method=number.method,
        strategy=number.strategy,
        metric=number.metric,
        scale="full",
        reported=number,
        evidence=entry.evidence,
        verdict=decided[1].word if decided else NO_TABLE,
        basis=BASES[decided[0]] if decided else "",
        budget=noise_budget(number.dataset, task) if task else None,
    )


def _id(*parts: object) -> str:
    return digest([str(part) for part in parts])
