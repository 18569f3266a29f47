"""Which reported numbers our tables can run, and why the others cannot be run.

A row of `results/reported/<file>.csv` is reachable when a table that names its file and table has a pair under its
teacher, student and strategy with an entry under its method. Rows of the method `teacher` are about a pair's teacher.
Where no table names its file and table, another paper's table may run the same method on the same networks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kdbench import datasets, methods

from ..spec.reported import Reported
from ..spec.table import Pair, Table, Unreachable
from ..text import counted

NO_TEACHER = "its table names no teacher"

Numbers = Mapping[str, Sequence[Reported]]
"""Reported numbers by file, without the ending."""


@dataclass
class Coverage:
    """How many reported numbers of one file have which status; cells that a paper leaves blank are ignored.

    Attributes:
        file: of `results/reported`, without the ending.
        reachable: numbers that a run of ours reproduces.
        elsewhere: numbers without a table of their own that another paper's table reproduces.
        logs: scores of logs that authors released; they stand beside the reported numbers.
        unreachable: numbers that a table declares unsupported, or that name no teacher, by the reason.
        no_table: numbers of methods that are there, in tables without a YAML file yet, by table.
        no_method: numbers of such tables that wait for a method, by method.
        no_dataset: numbers of such tables that wait for a data set, by data set.
        problems: a message for each number of our tables that is none of these.
    """

    file: str
    reachable: int = 0
    elsewhere: int = 0
    logs: int = 0
    unreachable: Counter[str] = field(default_factory=Counter)
    no_table: Counter[str] = field(default_factory=Counter)
    no_method: Counter[str] = field(default_factory=Counter)
    no_dataset: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The counts in one line: `reported crd: 188 numbers, 188 reachable`."""
        others = (self.unreachable, self.no_table, self.no_method, self.no_dataset)
        unreachable, no_table, no_method, no_dataset = (counter.total() for counter in others)
        total = self.reachable + self.elsewhere + self.logs + len(self.problems)
        total += unreachable + no_table + no_method + no_dataset
        parts = [counted(total, "number"), f"{self.reachable} reachable"]
        if self.elsewhere:
            parts.append(f"{self.elsewhere} in other papers' tables")
        if self.logs:
            parts.append(f"{self.logs} of the authors' logs, which stand beside reported numbers")
        if unreachable:
            parts.append(f"{unreachable} unreachable ({_counts(self.unreachable)})")
        if no_table:
            parts.append(f"{no_table} in no table yet ({_counts(self.no_table)})")
        for count, what, names in ((no_method, "method", self.no_method), (no_dataset, "data set", self.no_dataset)):
            if count:
                parts.append(f"{count} {'waits' if count == 1 else 'wait'} for a {what} ({_counts(names)})")
        if self.problems:
            parts.append(f"{len(self.problems)} uncovered: {'; '.join(self.problems)}")
        return f"reported {self.file}: {', '.join(parts)}"


def coverage(tables: Sequence[Table], reported: Numbers, logs: Collection[str] = ()) -> list[Coverage]:
    """The coverage of each file; `logs` are sources of logs that authors released."""
    return [_of_file(file, rows, tables, logs) for file, rows in reported.items()]


def uncovered(tables: Sequence[Table], reported: Numbers) -> list[str]:
    """A message for each number that is neither run nor declared unsupported, and for each unused `unreachable`."""
    problems = [problem for file in coverage(tables, reported) for problem in file.problems]
    return problems + unused(tables, reported)


def unused(tables: Iterable[Table], reported: Numbers) -> list[str]:
    """A message for each `unreachable` of a table that matches none of its reported numbers."""
    problems = []
    for table in tables:
        named = {(source.file, source.table) for source in table.reported}
        rows = [row for file, rows in reported.items() for row in rows if (file, row.table) in named]
        for i, unreachable in enumerate(table.unreachable):
            if not any(_matches(unreachable, row) for row in rows):
                problems.append(f"{table.name}: unreachable[{i}] matches no reported number; remove it")
    return problems


def _of_file(file: str, rows: Iterable[Reported], tables: Sequence[Table], logs: Collection[str]) -> Coverage:
    named_otherwise = {entry.reported for t in tables for pair in t.pairs for entry in t.entries(pair)}
    counts, known_methods = Coverage(file), {"teacher", *methods.names(), *named_otherwise}
    for row in rows:
        if row.value is None:
            continue
        named = [t for t in tables if any((s.file, s.table) == (file, row.table) for s in t.reported)]
        if named:
            _count(row, named, counts)
        elif row.source in logs:
            counts.logs += 1
        elif row.dataset not in datasets.names():
            counts.no_dataset[row.dataset] += 1
        elif row.method not in known_methods and not known_methods.issuperset(row.method.split("+")):
            counts.no_method[row.method] += 1
        elif any(table.dataset.full == row.dataset and not _gap(row, table) for table in tables):
            counts.elsewhere += 1
        elif not row.teacher:
            counts.unreachable[NO_TEACHER] += 1
        else:
            counts.no_table[row.table] += 1
    return counts


def _count(row: Reported, tables: Sequence[Table], counts: Coverage) -> None:
    """Count a number once; it is reachable where any of the tables reaches it."""
    reasons = [reason for table in tables for reason in unsupported(row, table)]
    gaps = [_gap(row, table) for table in tables]
    reached = "" in gaps
    if reached and not reasons:
        counts.reachable += 1
    elif reached:
        counts.problems.append(f"{_describe(row)} has a run and is also listed under `unreachable`; remove one")
    elif skips := [pair.skip for table in tables for pair in _pairs(row, table) if pair.skip]:
        counts.unreachable[skips[0]] += 1
    elif reasons:
        counts.unreachable[reasons[0]] += 1
    else:
        counts.problems.append(f"{_describe(row)} has no run: {'; '.join(gaps)}")


def unsupported(row: Reported, table: Table) -> list[str]:
    """The reasons of the table's `unreachable` entries that match a number."""
    return [unreachable.reason for unreachable in table.unreachable if _matches(unreachable, row)]


def _matches(unreachable: Unreachable, row: Reported) -> bool:
    fields = ("method", "teacher", "student", "metric")
    return all(getattr(unreachable, name) in (None, getattr(row, name)) for name in fields)


def _gap(row: Reported, table: Table) -> str:
    """Why the table does not reach a number, and the fix; empty when it does."""
    if row.metric != table.metric:
        return f"{table.name} is about {table.metric}; give {row.metric} a table of its own"
    pairs = _pairs(row, table)
    if not pairs:
        return f"{table.name} has no such pair{_other_strategies(row, table)}; add it, or list it under `unreachable`"
    runs = [pair for pair in pairs if not pair.skip]
    if not any(row.method == "teacher" or row.method in _methods(table, pair) for pair in runs):
        return f"{table.name} has no {row.method} for this pair; add it, or list it under `unreachable`"
    return ""


def _pairs(row: Reported, table: Table) -> list[Pair]:
    """The table's pairs under the row's names; a teacher without a student belongs to any pair."""
    return [
        pair
        for pair in table.pairs
        if pair.teacher == row.teacher
        and (pair.student == row.student or (row.method == "teacher" and not row.student))
        and (pair.strategy or "") == row.strategy
    ]


def _other_strategies(row: Reported, table: Table) -> str:
    same = [pair for pair in table.pairs if (pair.teacher, pair.student) == (row.teacher, row.student)]
    names = ", ".join(sorted({repr(pair.strategy or "") for pair in same}))
    return f" under the strategy {row.strategy!r} (there is {names})" if same else ""


def _methods(table: Table, pair: Pair) -> set[str]:
    """The names of the pair's entries in files of reported numbers."""
    return {entry.reported or entry.method for entry in table.entries(pair) if not entry.control}


def _describe(row: Reported) -> str:
    strategy = f" ({row.strategy})" if row.strategy else ""
    return f"{row.table}: {row.teacher} -> {row.student or 'no student'} {row.method}{strategy}"


def _counts(counts: Counter[str]) -> str:
    return "; ".join(f"{name}: {count}" for name, count in counts.most_common())
