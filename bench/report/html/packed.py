"""The page's table as compact JSON: column by column, texts by number, empty columns and values left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ... import tasks
from ...text import printable
from .columns import COLUMNS, FILTERS, PARTS, Value
from .lines import Line

DIGITS = 4
"""Decimals that are kept: beyond what is shown, and what a CSV file of the page has."""

SPARSE = 3
"""A list with fewer than one in this many values is written as positions and values."""


def packed(lines: Sequence[Line]) -> dict[str, Any]:
    """`ids`, `columns` with heading and `parts` (none for a column without a value), `filters`, `digits` of metrics."""
    columns = []
    for column in COLUMNS:
        parts = [_part(values) for values in zip(*map(column.values, lines), strict=True)]
        columns.append(
            {
                "key": column.key,
                "title": column.title,
                "kind": column.kind,
                "about": column.about,
                "shown": column.shown,
                "narrow": column.narrow,
                "digits": column.digits,
                "names": PARTS[column.kind],
                "parts": parts if any(parts) else [],
            }
        )
    return {"ids": [line.id for line in lines], "columns": columns, "filters": FILTERS, "digits": _reported_digits()}


def _reported_digits() -> dict[str, int]:
    """Digits after the point with which papers print a metric, by its key."""
    return {metric.key: metric.digits for task in tasks.names() for metric in tasks.get(task).metrics}


def script(call: str, *values: object) -> str:
    """A script that calls a function of the page with JSON values; nothing in it can end a script element."""
    arguments = ",".join(f"JSON.parse({_literal(_json(value))})" for value in values)
    return f"{call}({arguments});\n"


def _part(values: Sequence[Value]) -> dict[str, Any] | None:
    """One part of a column's values; None if all are empty."""
    present = [(i, value) for i, value in enumerate(values) if value not in (None, "")]
    if not present:
        return None
    if isinstance(present[0][1], str):
        texts = {text: number for number, text in enumerate(dict.fromkeys(values))}
        return {"texts": [printable(str(text or "")) for text in texts], "at": [texts[value] for value in values]}
    rounded = [(i, _rounded(value)) for i, value in present]
    if len(rounded) * SPARSE < len(values):
        return {"index": [i for i, _ in rounded], "values": [value for _, value in rounded]}
    return {"values": [_rounded(value) for value in values]}


def _rounded(value: Value) -> Value:
    if not isinstance(value, float):
        return value
    rounded = round(value, DIGITS)
    return int(rounded) if rounded.is_integer() else rounded


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _literal(text: str) -> str:
    """A JavaScript string; `<` is escaped, so that the text is harmless inside HTML, too."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("<", "\\u003c") + "'"
