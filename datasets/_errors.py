"""Errors of data sets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """Data is missing, broken or contradictory; the message names the file and how to fix it."""


def unknown(kind: str, name: str, known: Iterable[str]) -> DataError:
    """The error for an unknown name, with the nearest known one."""
    choices = list(known)
    nearest = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return DataError(f"unknown {kind}: {name!r}.{hint} Available: {', '.join(choices) or 'none'}")
