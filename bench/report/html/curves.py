"""Curves of a cell's runs: the metric over epochs, loss terms over steps, packed for the page."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import tasks
from ...errors import StoreError
from ...records.series import Series, series
from ...text import printable
from .. import values
from ..cells import Cell

MISSING = 65535
"""Place of a value that there is none of."""

RATIO = 30.0
"""Largest over smallest from which values are packed by their logarithm, and drawn on a logarithmic axis."""

Array = NDArray[np.float64]


def curves(cell: Cell) -> tuple[list[dict[str, Any]], list[str]]:
    """A record a run, and why runs have none.

    A record has `name`, `epoch` and `steps` as `_sequence`, `metric` and `losses` as `_packed`, and `last`, the metric
    of the last evaluated epoch as text.
    """
    made, problems = [], []
    for row in (*cell.rows, *cell.unfinished):
        try:
            found = series(row.history)
        except StoreError as error:
            problems.append(f"curves of seed {row.run.seed} are left out: {error}")
            continue
        if len(found.epoch):
            key = cell.metric if cell.metric in found.metrics else tasks.headline(row.run.task).key
            made.append({"name": f"seed {row.run.seed}", **_record(found, key)})
    return made, problems


def _record(found: Series, key: str) -> dict[str, Any]:
    names = [printable(name) for name in found.losses]
    metric = found.metrics.get(key, np.full(len(found.epoch), np.nan))
    known = metric[~np.isnan(metric)]
    packed = _packed(np.stack([metric, *found.losses.values()]))
    return {
        "epoch": _sequence(found.epoch),
        "steps": _sequence(found.steps),
        "metric": packed[0],
        "last": values.number(float(known[-1])) if len(known) else values.BLANK,
        "losses": dict(zip(names, packed[1:], strict=True)),
    }


def _sequence(numbers: Array) -> dict[str, Any] | list[float]:
    """Ascending whole numbers: `first`, `by` and `count` where they are evenly spaced, else a list."""
    steps = np.diff(numbers)
    if len(steps) and (steps == steps[0]).all():
        return {"first": int(numbers[0]), "by": int(steps[0]), "count": len(numbers)}
    return [int(number) for number in numbers]


def _packed(rows: Array) -> list[dict[str, Any] | None]:
    """Each row of [S, E], where NaN is a missing value, as E places between its `low` and `high`; None without a value.

    Places are 16 bits, so that values are off by at most 1/130000 of the range. Where values differ by orders of
    magnitude, places are those of their logarithms (`log`).
    """
    missing = np.isnan(rows)
    low = np.where(missing, np.inf, rows).min(axis=1)
    high = np.where(missing, -np.inf, rows).max(axis=1)
    log = (low > 0) & (high > RATIO * low) & np.isfinite(low)
    low_log, high_log = np.log(np.where(log, low, 1.0)), np.log(np.where(log, high, 1.0))
    scaled = np.where(log[:, None], np.log(np.where(log[:, None] & ~missing, rows, 1.0)), rows)
    begin = np.where(log, low_log, low)
    span = np.where(log, high_log, high) - begin
    with np.errstate(invalid="ignore", divide="ignore"):  # of rows without a value, and of constant ones
        places = (scaled - begin[:, None]) / span[:, None] * (MISSING - 1)
    places = np.where(missing, MISSING, np.nan_to_num(np.rint(places), nan=0.0, posinf=0.0, neginf=0.0)).astype("<u2")
    return [
        None
        if missing[k].all()
        else {
            "low": float(low[k]),
            "high": float(high[k]),
            "log": bool(log[k]),
            "at": base64.b64encode(places[k].tobytes()).decode(),
        }
        for k in range(len(rows))
    ]
