"""Fields of the entries of an annotation file: typed values, or an error that names file, entry and field."""

from __future__ import annotations

import collections
import reprlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _files
from ._errors import DataError

MAX_SIDE = 2**20  # pixels of an image
MAX_VALUE = 1e9  # of a box, to either side
MAX_TEXT = 4096  # characters, as in a path

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80  # characters of a wrong value


def ids(file: Path, kind: str, entries: list[Any]) -> list[int]:
    """The ids of entries, which must be different whole numbers of any size."""
    values = [whole(file, kind, entry, "id") for entry in entries]
    if len(set(values)) < len(values):
        value, count = collections.Counter(values).most_common(1)[0]
        raise DataError(f"{file}: {kind} id {value} occurs {count} times; ids must be unique, renumber them")
    return values


def array(values: list[int]) -> NDArray[Any]:
    """Whole numbers [N] as int64, or as Python's integers where one is beyond it."""
    limits = np.iinfo(np.int64)
    fit = all(limits.min <= value <= limits.max for value in values)
    return np.array(values, dtype=np.int64 if fit else object)


def whole(file: Path, kind: str, entry: Any, key: str) -> int:
    """A whole number."""
    value = _value(entry, key)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong(file, kind, entry, key, "it must be a whole number")


def side(file: Path, entry: Any, key: str) -> int:
    """Width or height of an image in pixels."""
    value = whole(file, "image", entry, key)
    if not 1 <= value <= MAX_SIDE:
        raise _wrong(file, "image", entry, key, f"it must be a number of pixels, 1 to {MAX_SIDE}")
    return value


def text(file: Path, kind: str, entry: Any, key: str) -> str:
    """A string that can be printed and written."""
    value = _value(entry, key)
    if not isinstance(value, str):
        raise _wrong(file, kind, entry, key, "it must be a string")
    if not value or len(value) > MAX_TEXT or "\0" in value or not _files.is_text(value):
        raise _wrong(
            file, kind, entry, key, f"it must be 1 to {MAX_TEXT} characters without null characters and lone surrogates"
        )
    return value


def box(file: Path, entry: Any) -> list[float]:
    """x, y, width and height of an annotation."""
    values = _value(entry, "bbox")
    if not isinstance(values, list):
        raise _wrong(file, "annotation", entry, "bbox", "it must be a list")
    if len(values) != 4 or not all(map(_is_number, values)):
        raise _wrong(file, "annotation", entry, "bbox", "write [x, y, width, height] in pixels, as numbers")
    if not all(abs(value) <= MAX_VALUE for value in values):  # false for NaN
        raise _wrong(file, "annotation", entry, "bbox", f"write finite numbers of pixels, below {MAX_VALUE:g}")
    return [float(value) for value in values]


def area(file: Path, entry: Any) -> float | None:
    """The area of an annotation in square pixels; None if it is missing or null."""
    value = _value(entry, "area")
    if value is None:
        return None
    if not _is_number(value):
        raise _wrong(file, "annotation", entry, "area", "it must be a number, or left out")
    if not abs(value) <= MAX_VALUE**2:  # false for NaN
        raise _wrong(file, "annotation", entry, "area", f"write finite numbers, below {MAX_VALUE**2:g}")
    return float(value)


def flag(file: Path, entry: Any, key: str) -> bool:
    """A flag of an annotation, 0 or 1; false if it is missing or null."""
    value = _value(entry, key)
    if value is None:
        return False
    if (_is_number(value) or isinstance(value, bool)) and value in (0, 1):
        return bool(value)
    raise _wrong(file, "annotation", entry, key, "write 0 or 1, as a number without quotes")


def _value(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _wrong(file: Path, kind: str, entry: Any, key: str, fix: str) -> DataError:
    name = entry.get("id", "without id") if isinstance(entry, dict) else entry
    return DataError(f"{file}: {kind} {_short(name)} has {key} {_short(_value(entry, key), quoted=True)}; {fix}")


def _short(value: Any, quoted: bool = False) -> str:
    shown = _REPR.repr(value) if quoted or not isinstance(value, (int, str)) else str(value)[:MAX_TEXT]
    return shown.encode(errors="backslashreplace").decode()
