"""The error that bad data is answered with."""

from __future__ import annotations


class DataError(ValueError):
    """Data is missing, broken or contradicts itself; the message names the file and how to mend it."""
