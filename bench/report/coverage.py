"""Every printed number stands for a run of ours, or it is said why not.

A row of `results/reported/<file>.csv` is reachable when a table that names its file and table has a pair under its
teacher, student and strategy with an entry under its method. Rows of the method `teacher` stand for a pair's teacher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..spec.reported import Reported
from ..spec.table import Pair, Table, Unreachable

Numbers = Mapping[str, Sequence[Reported]]
"""Printed numbers by file, without the ending."""


@dataclass
class Coverage:
    """What becomes of the printed numbers of one file; cells that a paper leaves blank do not count.

    Attributes:
        file: of `results/reported`, without the ending.
        reachable: numbers that a run of ours stands for.
        unreachable: numbers that a table gives up, by its reason.
        no_table: numbers of tables for which there is no YAML yet, by table.
        problems: a message for each number of a table of ours that is none of these.
    """

    file: str
    reachable: int = 0
    unreachable: Counter[str] = field(default_factory=Counter)
    no_table: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """As in `reported crd: 188 numbers, 188 reachable`."""
        given_up, elsewhere = self.unreachable.total(), self.no_table.total()
        total = self.reachable + given_up + elsewhere + len(self.problems)
        parts = [f"{total} numbers", f"{self.reachable} reachable"]
        if given_up:
            parts.append(f"{given_up} unreachable ({_counts(self.unreachable)})")
        if elsewhere:
            parts.append(f"{elsewhere} in no table yet ({_counts(self.no_table)})")
        if self.problems:
            parts.append(f"{len(self.problems)} uncovered: {'; '.join(self.problems)}")
        return f"reported {self.file}: {', '.join(parts)}"


def coverage(tables: Sequence[Table], reported: Numbers) -> list[Coverage]:
    """Where every number of every file stands, file by file."""
    return [_of_file(file, rows, tables) for file, rows in reported.items()]


def uncovered(tables: Sequence[Table], reported: Numbers) -> list[str]:
    """A message for each number that no run stands for and no table gives up, and for each idle `unreachable`."""
    problems = [problem for one in coverage(tables, reported) for problem in one.problems]
    return problems + idle(tables, reported)


def idle(tables: Iterable[Table], reported: Numbers) -> list[str]:
    """A message for each `unreachable` of a table that fits none of its printed numbers."""
    problems = []
    for table in tables:
        named = {(source.file, source.table) for source in table.reported}
        rows = [row for file, rows in reported.items() for row in rows if (file, row.table) in named]
        for i, given_up in enumerate(table.unreachable):
            if not any(_fits(given_up, row) for row in rows):
                problems.append(f"{table.name}: unreachable[{i}] fits no reported number; remove it")
    return problems


def _of_file(file: str, rows: Iterable[Reported], tables: Sequence[Table]) -> Coverage:
    found = Coverage(file)
    for row in rows:
        if row.value is None:
            continue
        named = [t for t in tables if any((s.file, s.table) == (file, row.table) for s in t.reported)]
        if not named:
            found.no_table[row.table] += 1
        else:
            _place(row, named, found)
    return found


def _place(row: Reported, tables: Sequence[Table], found: Coverage) -> None:
    """Count a number once; what any of the tables reaches is reachable."""
    reasons = [reason for table in tables for reason in _given_up(row, table)]
    obstacles = [_obstacle(row, table) for table in tables]
    reached = "" in obstacles
    if reached and not reasons:
        found.reachable += 1
    elif reached:
        found.problems.append(f"{_shown(row)} has a run and is also listed under `unreachable`; remove one")
    elif skips := [pair.skip for table in tables for pair in _pairs(row, table) if pair.skip]:
        found.unreachable[skips[0]] += 1
    elif reasons:
        found.unreachable[reasons[0]] += 1
    else:
        found.problems.append(f"{_shown(row)} stands for no run: {'; '.join(obstacles)}")


def _given_up(row: Reported, table: Table) -> list[str]:
    return [given_up.reason for given_up in table.unreachable if _fits(given_up, row)]


def _fits(given_up: Unreachable, row: Reported) -> bool:
    pairs = ((given_up.method, row.method), (given_up.teacher, row.teacher), (given_up.student, row.student))
    return all(wanted in (None, own) for wanted, own in pairs)


def _obstacle(row: Reported, table: Table) -> str:
    """Why the table does not reach a number, and the mend; empty when it does."""
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
    """The table's pairs under the row's names; a teacher that stands alone is any pair's."""
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
    """Names under which the pair's entries look for printed numbers."""
    return {entry.reported or entry.method for entry in table.entries(pair)}


def _shown(row: Reported) -> str:
    strategy = f" ({row.strategy})" if row.strategy else ""
    return f"{row.table}: {row.teacher} -> {row.student or 'no student'} {row.method}{strategy}"


def _counts(counts: Counter[str]) -> str:
    return "; ".join(f"{name}: {count}" for name, count in counts.most_common())
