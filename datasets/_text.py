"""Counts in messages."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 pair`, `2 pairs`; with a plural of its own `1 box is`, `2 boxes are`."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
