"""Does this paper's table reproduce? Every reported number with the best evidence there is, counted paper by paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .. import tasks
from ..records.row import Row
from ..spec.reported import Reported
from ..spec.table import Table
from .cells import Cell, collect
from .evidence import KINDS, Claim, Evidence, Kind, Published, Subject, gather
from .verdicts import Sample, Verdict, noise_budget

DECIDED = ("reproduced", "above", "below")
DEFAULT_SELECTION = "best"
"""The epoch that is compared where neither the paper nor a table of ours says which it reports: it favors the paper."""


class Entry(NamedTuple):
    """A reported number with its evidence; `cell` is the one that would be trained for it, if any."""

    reported: Reported
    cell: Cell | None
    evidence: Mapping[Kind, Evidence]

    @property
    def verdict(self) -> Verdict | None:
        """Of the strongest evidence that can be compared."""
        found = strongest(self.cell, self.evidence)
        return found[1] if found else None


@dataclass
class Summary:
    """The reported numbers of one paper, or of one of its methods, counted.

    Attributes:
        name: of the paper or method.
        entries: its numbers.
    """

    name: str
    entries: list[Entry] = field(default_factory=list)

    @property
    def runnable(self) -> int:
        """Numbers that have a run in some table."""
        return sum(entry.cell is not None and not entry.cell.spec.skip for entry in self.entries)

    @property
    def measured(self) -> int:
        """Numbers whose run was finished here at full scale, comparable or not."""
        return sum(entry.cell is not None and entry.cell.measured is not None for entry in self.entries)

    def having(self, kind: Kind) -> int:
        """Numbers with one kind of evidence, comparable or not."""
        return sum(kind in entry.evidence for entry in self.entries)

    def decided(self, word: str) -> int:
        return sum(entry.verdict is not None and entry.verdict.word == word for entry in self.entries)

    @property
    def open(self) -> int:
        """Numbers without evidence that can be compared."""
        return sum(entry.verdict is None for entry in self.entries)

    @property
    def difference(self) -> Sample | None:
        """Evidence minus reported over the numbers that have a verdict, percent."""
        verdicts = [entry.verdict for entry in self.entries]
        differences = [v.difference for v in verdicts if v is not None and v.difference is not None]
        return Sample.of(differences)

    @property
    def has_evidence(self) -> bool:
        return bool(self.measured or any(self.having(kind) for kind in KINDS))

    def by_method(self) -> list[Summary]:
        """The methods with evidence, apart."""
        methods: dict[str, Summary] = {}
        for entry in self.entries:
            methods.setdefault(entry.reported.method, Summary(entry.reported.method)).entries.append(entry)
        return [summary for summary in methods.values() if summary.has_evidence]


def strongest(cell: Cell | None, evidence: Mapping[Kind, Evidence]) -> tuple[str, Verdict] | None:
    """The verdict of the strongest evidence that can be compared, with "cell" or the kind of evidence that it is of.

    Trained here, else others' runs, else published weights; logs that the authors released are no evidence that a
    number can be reproduced.
    """
    verdicts = {"cell": cell.verdict} if cell else {}
    verdicts |= {kind: evidence[kind].verdict for kind in ("reruns", "weights") if kind in evidence}
    return next(((kind, verdict) for kind, verdict in verdicts.items() if verdict.word in DECIDED), None)


def summarize(
    tables: Sequence[Table],
    numbers: Mapping[str, Sequence[Reported]],
    rows: Iterable[Row],
    published: Published,
) -> list[Summary]:
    """Every paper with its numbers, those with the most evidence first.

    Files give the student alone beside the methods, without a line of its own: it is a number of its paper where a
    table here trains it.

    Args:
        tables: all that can be trained.
        numbers: the reported ones, by file.
        rows: what was trained here.
        published: what others published.
    """
    rows = list(rows)
    cells = _cells(tables, rows, published)
    papers: dict[str, Summary] = {}
    seen = set()
    for file in numbers.values():
        for row in file:
            if row.value is None or row.method == "teacher" or row.source in published.logs or _printed(row) in seen:
                continue
            seen.add(_printed(row))
            entry = _entry(row, cells.pop(row.key, None), published)
            papers.setdefault(row.paper, Summary(row.paper)).entries.append(entry)
    for cell in cells.values():
        number = cell.reported
        if number is not None and number.method == "none" and _printed(number) not in seen:
            seen.add(_printed(number))
            papers.setdefault(number.paper, Summary(number.paper)).entries.append(Entry(number, cell, cell.evidence))
    return sorted(papers.values(), key=lambda paper: (-_evident(paper), -paper.runnable, paper.name))


def _printed(row: Reported) -> tuple[str, ...]:
    return row.paper, row.dataset, row.strategy, row.teacher, row.student, row.method, row.metric


def total(papers: Iterable[Summary]) -> Summary:
    """All papers' numbers, one that a paper quotes from another counted once."""
    distinct: dict[tuple[Subject, str, float | None], Entry] = {}
    for entry in (entry for paper in papers for entry in paper.entries):
        row = entry.reported
        key = (Subject.of(row), row.strategy, row.value)
        distinct[key] = max(distinct.get(key, entry), entry, key=_strength)
    return Summary("all, quoted numbers once", list(distinct.values()))


def _strength(entry: Entry) -> tuple[bool, bool, bool]:
    cell = entry.cell
    return entry.verdict is not None, cell is not None and cell.measured is not None, cell is not None


def interval(sample: Sample) -> tuple[float, float] | None:
    """The 95 % interval of a mean difference; None for a single number."""
    half = sample.half_width
    return None if half is None or not math.isfinite(half) else (sample.mean - half, sample.mean + half)


def _evident(paper: Summary) -> int:
    return sum(bool(entry.verdict) for entry in paper.entries)


def _cells(tables: Sequence[Table], rows: Sequence[Row], published: Published) -> dict[tuple[str, ...], Cell]:
    """The cell of each reported number at full scale, one that has been trained before others."""
    cells: dict[tuple[str, ...], Cell] = {}
    for table in tables:
        for cell in collect(table, rows, "full", published):
            if cell.reported is None:
                continue
            known = cells.get(cell.reported.key)
            if known is None or (known.measured is None and (cell.measured is not None or known.spec.skip)):
                cells[cell.reported.key] = cell
    return cells


def _entry(row: Reported, cell: Cell | None, published: Published) -> Entry:
    if cell is not None:
        return Entry(row, cell, cell.evidence)
    task = tasks.with_metric(row.metric)
    if task is None:
        return Entry(row, None, {})
    claim = Claim(Subject.of(row), row, row.selection or DEFAULT_SELECTION, noise_budget(row.dataset, task))
    return Entry(row, None, gather(claim, published))
