"""Errors of methods."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MethodError(ValueError):
    """A method cannot be built or computed as requested; the message says why and how to fix it."""


def unknown(kind: str, name: str, known: Iterable[str]) -> MethodError:
    """The error for an unknown name, with the nearest known one."""
    choices = list(known)
    by_lower = {choice.lower(): choice for choice in choices}
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1)
    hint = f" Did you mean {by_lower[nearest[0]]!r}?" if nearest else ""
    return MethodError(f"unknown {kind}: {name!r}.{hint} Available: {', '.join(choices) or 'none'}")
