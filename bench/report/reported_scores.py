"""Reported numbers as scores to rank methods by, each of one table whose methods share teachers and students."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..spec.reported import Reported
from .evidence import Subject

Networks = tuple[float | None, float | None]
"""The scores of the teacher and of the student alone that a number was reported with."""


@dataclass
class ReportedScores:
    """Numbers of one table.

    Attributes:
        scores: by pair, the score of each method; the student alone is left out.
        quoted: methods with a number quoted from a table whose teacher or student scores otherwise; it is left out.
    """

    scores: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    quoted: set[str] = field(default_factory=set)


def reported_scores(files: Mapping[str, Sequence[Reported]]) -> dict[str, dict[str, ReportedScores]]:
    """The scores of each file by `TABLE, METRIC`.

    A number that tables give with different networks belongs to those that the paper of the method gives it with, and
    of another paper's method to those that most tables give it with.
    """
    usual = _usual_networks(row for rows in files.values() for row in rows)
    found: dict[str, dict[str, ReportedScores]] = {}
    for file, rows in files.items():
        tables = found.setdefault(file, {})
        for row in rows:
            if row.value is None or not row.student or row.method in ("teacher", "none"):
                continue
            table = tables.setdefault(f"{row.table}, {row.metric}", ReportedScores())
            if not _is_own(row) and usual[Subject.of(row), row.value] not in (None, _networks(row)):
                table.quoted.add(row.method)
            else:
                table.scores[_pair(row)][row.method] = row.value
    return found


def _usual_networks(rows: Iterable[Reported]) -> dict[tuple[Subject, float | None], Networks | None]:
    """The networks that a number belongs to; None where no networks are given with it by more tables than others."""
    counts: dict[tuple[Subject, float | None], tuple[Counter[Networks], Counter[Networks]]]
    counts = defaultdict(lambda: (Counter(), Counter()))
    for row in rows:
        counts[Subject.of(row), row.value][_is_own(row)][_networks(row)] += 1
    usual: dict[tuple[Subject, float | None], Networks | None] = {}
    for number, (quoted, own) in counts.items():
        (first, most), *others = (own or quoted).most_common()
        usual[number] = None if others and others[0][1] == most else first
    return usual


def _is_own(row: Reported) -> bool:
    """Whether a number is of a method of its paper's."""
    return row.paper in row.method.split("+")


def _networks(row: Reported) -> Networks:
    return row.teacher_value, row.student_value


def _pair(row: Reported) -> str:
    """Numbers that are given with networks of other scores are another pair's."""
    networks = [f"{value:g}" for value in _networks(row) if value is not None]
    return " -> ".join(filter(None, (row.strategy, row.teacher, row.student, ", ".join(networks))))
