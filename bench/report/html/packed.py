"""The page's table as compact JSON: column by column, each part of a column as bytes in base64."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import tasks
from ...text import printable
from .columns import COLUMNS, FILTERS, PARTS, Value
from .lines import Line

WIDTHS = {1: "<u1", 2: "<u2", 4: "<u4"}
"""Bytes of a number in a list of distinct values, as numpy writes it."""


def packed(lines: Sequence[Line], shards: Sequence[tuple[str, int]] = ()) -> dict[str, Any]:
    """The table as JSON.

    `ids`, `shards` (name and first line of each file of details), `columns` with heading and `parts` (none for a column
    without a value), `filters`, `digits` of metrics.
    """
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
    digits = {metric.key: metric.digits for task in tasks.names() for metric in tasks.get(task).metrics}
    return {
        "ids": [line.id for line in lines],
        "shards": list(shards),
        "columns": columns,
        "filters": FILTERS,
        "digits": digits,
    }


def script(call: str, *values: object) -> str:
    """A script that calls a function of the page with JSON values; nothing in it can end a script element."""
    arguments = ",".join(f"JSON.parse({literal(encoded(value))})" for value in values)
    return f"{call}({arguments});\n"


def _part(values: Sequence[Value]) -> dict[str, Any] | None:
    """One part of a column; None if all its values are empty.

    Texts, and numbers of which few are distinct, are `values` with `at`, places in it of `width` bytes; other numbers
    are float32 `floats`, NaN for a missing one.
    """
    cleaned = [_cleaned(value) for value in values]
    distinct = {value: place for place, value in enumerate(dict.fromkeys(cleaned))}
    if set(distinct) <= {None}:
        return None
    width = next(width for width in WIDTHS if len(distinct) <= 256**width)
    if not isinstance(next(value for value in distinct if value is not None), str) and 2 * len(distinct) > len(values):
        floats = [math.nan if value is None else value for value in cleaned]
        return {"floats": _base64(np.array(floats, "<f4"))}
    at = np.array([distinct[value] for value in cleaned], WIDTHS[width])
    return {"values": list(distinct), "at": _base64(at), "width": width}


def _cleaned(value: Value) -> Value:
    """A text printable, a number with the digits that float32 has; None for an empty text."""
    if isinstance(value, str):
        return printable(value) or None
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _base64(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def encoded(value: object) -> str:
    """Compact JSON, all of it ASCII."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def literal(text: str) -> str:
    """A JavaScript string; `<` is escaped, so that the text is harmless inside HTML, too."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("<", "\\u003c") + "'"
