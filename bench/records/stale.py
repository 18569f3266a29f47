"""Rows that another training would replace: of a method or network that has changed, or of a teacher trained again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .code import code_of
from .row import Row


def is_stale(row: Row) -> bool:
    """Whether the code of a row's method or network has changed since; False where that is not known."""
    return row.code is not None and code_of(row.run) not in (row.code, None)


def trained_weights(rows: Iterable[Row]) -> dict[str, str]:
    """The sha256 of what was trained, by run."""
    return {row.id: row.student.sha256 for row in rows if row.student}


def has_old_teacher(row: Row, weights: Mapping[str, str]) -> bool:
    """Whether a row's teacher has other weights by now; False where it has no row.

    Args:
        row: of any run; a teacher that was given as a file is part of the run.
        weights: `trained_weights` of the rows now.
    """
    run = row.run
    if run.teacher is None or run.teacher_file or row.teacher is None:
        return False
    return weights.get(run.teacher.id, row.teacher.sha256) != row.teacher.sha256
