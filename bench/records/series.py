"""The epochs of a run as arrays, a column for each loss term and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from .history import Epoch, History, epochs_json

Column = NDArray[np.float64]
"""[E]"""

FIELDS = set(Epoch.model_fields)
LARGEST_LOSS, LARGEST_SCORE = 1e100, 100.001
"""As `history.Value` and `history.Percent` have them."""


@dataclass(frozen=True)
class Series:
    """E epochs.

    Attributes:
        epoch, steps: [E], as in `Epoch`.
        losses, metrics: [E] by name, NaN where an epoch has none of that name.
    """

    epoch: Column
    steps: Column
    losses: Mapping[str, Column]
    metrics: Mapping[str, Column]


def series(history: Sequence[Epoch]) -> Series:
    """The columns of a history; one in a row's file is read anew, in about half the time that its epochs take.

    Raises:
        StoreError: its file is gone, changed since the row was read, or an epoch in it is invalid.
    """
    read = _read(history) if isinstance(history, History) else None
    return read or _of_epochs(tuple(history))


def _read(history: History) -> Series | None:
    """The columns as they are in the file; None where that is not certainly valid, and `Epoch` then says why."""
    content = epochs_json(history)
    if b"true" in content or b"false" in content:  # which numpy takes for numbers
        return None
    try:
        found: Any = from_json(content, allow_inf_nan=False, cache_strings="keys")
        fields = set(map(tuple, found))
        if len(fields) != 1 or set(first := fields.pop()) != FIELDS:
            return None
        parts = dict(zip(first, zip(*map(dict.values, found), strict=True), strict=True))
        counts, lr = np.array([parts["epoch"], parts["steps"]]), np.array(parts["lr"])
        losses, metrics = _columns(parts["losses"]), _columns(parts["metrics"])
    except (ValueError, TypeError, AttributeError):
        return None
    valid = counts.dtype.kind == "i" and counts.min() >= 0 and lr.dtype.kind in "fi" and lr.min() >= 0
    valid = valid and _are_within(losses, -LARGEST_LOSS, LARGEST_LOSS) and _are_within(metrics, 0, LARGEST_SCORE)
    return Series(counts[0].astype(float), counts[1].astype(float), losses, metrics) if valid else None


def _are_within(columns: Mapping[str, Column], least: float, most: float) -> bool:
    if not columns:
        return True
    values = np.stack(list(columns.values()))
    return bool(((values >= least) & (values <= most) | np.isnan(values)).all())


def _of_epochs(epochs: Sequence[Epoch]) -> Series:
    return Series(
        np.array([each.epoch for each in epochs], float),
        np.array([each.steps for each in epochs], float),
        _columns([each.losses for each in epochs]),
        _columns([each.metrics for each in epochs]),
    )


def _columns(values: Sequence[Mapping[str, float]]) -> dict[str, Column]:
    """[E] by name, in the order in which names come.

    Raises:
        TypeError: a value is no number.
    """
    alike = set(map(tuple, values))
    names = list(*alike) if len(alike) == 1 else list(dict.fromkeys(chain.from_iterable(values)))
    if len(alike) == 1:
        flat = np.array([value for each in values for value in each.values()])
    else:
        flat = np.array([each.get(name, np.nan) for each in values for name in names])
    if flat.dtype.kind not in "fi":
        raise TypeError(f"not all values of {', '.join(names)} are numbers")
    matrix = flat.astype(float).reshape(len(values), len(names))
    return {name: matrix[:, k] for k, name in enumerate(names)}
