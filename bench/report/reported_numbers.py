"""The numbers that a table's files of reported numbers give its cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..grid.cells import CellSpec
from ..spec.reported import Reported, find, student_alone
from ..spec.table import Pair, Table

ReportedTables = Sequence[tuple[str, list[Reported]]]
"""The name of each reported table and its numbers."""


def number(table: Table, spec: CellSpec, reported: ReportedTables) -> Reported | None:
    """The first number that the table's files give this cell; for `none`, failing that, the reported student."""
    if not spec.reported:
        return None
    pair = spec.pair
    names: dict[str, Any] = {"teacher": pair.teacher, "student": pair.student, "metric": table.metric}
    names["strategy"] = pair.strategy
    method = spec.entry.reported or spec.entry.method
    for name, rows in reported:
        if row := find(rows, table=name, method=method, **names):
            return row
    if method != "none":
        return None
    alone = (student_alone(rows, table=name, **names) for name, rows in reported)
    return next((row for row in alone if row), None)


def teacher_number(table: Table, pair: Pair, reported: ReportedTables) -> float | None:
    """The reported score of a pair's teacher."""
    for name, rows in reported:
        for row in rows:
            same = (row.table, row.teacher, row.student, row.metric)
            wanted = (name, pair.teacher, pair.student, table.metric)
            if same == wanted and pair.strategy in (None, row.strategy) and row.teacher_value is not None:
                return row.teacher_value
    return None
