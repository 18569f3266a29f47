"""Rows whose method computes something else by now."""

from __future__ import annotations

from kdbench import methods

from .row import Row


def is_stale(row: Row) -> bool:
    """Whether the code of a row's method has changed since; False where that is not known."""
    return row.code is not None and methods.code(row.run.method) not in (row.code, None)
