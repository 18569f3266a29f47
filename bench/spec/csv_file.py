"""Typed CSV files of numbers with sources: one pydantic model a line, and errors that name file and line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kdbench.datasets._files import read_bytes

from ..errors import SpecError
from .schema import MAX_BYTES

Line = TypeVar("Line", bound=BaseModel)


def read(
    path: Path,
    model: type[Line],
    numbers: Collection[str] = (),
    key: Callable[[Line], tuple[Hashable, ...]] | None = None,
) -> list[Line]:
    """The lines of a CSV file.

    Args:
        path: of a file in UTF-8 whose columns are the model's fields, in their order.
        model: of a line.
        numbers: fields in which an empty cell is None.
        key: what no two lines may share; by default lines may repeat.

    Raises:
        SpecError: the file cannot be read, or a line breaks the schema; the message names file and line.
    """
    lines = list(_lines(path, model, numbers))
    first: dict[tuple[Hashable, ...], int] = {}
    for number, line in lines:
        identity = key(line) if key else (number,)
        if identity in first:
            names = " ".join(map(str, filter(None, identity)))
            raise SpecError(f"{path}:{number}: repeats line {first[identity]}: {names}")
        first[identity] = number
    return [line for _, line in lines]


def read_text(path: Path) -> str:
    """A file in UTF-8, with or without a byte order mark.

    Raises:
        SpecError: it cannot be read, or is no text; the message names the file.
    """
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not a text file in UTF-8: {error.reason} at byte {error.start}") from error


def _lines(path: Path, model: type[Line], numbers: Collection[str]) -> Iterator[tuple[int, Line]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        if reader.fieldnames is None or list(reader.fieldnames) != list(model.model_fields):
            raise SpecError(f"{path}:1: the columns must be {','.join(model.model_fields)}")
        for values in reader:
            yield reader.line_num, _parse(values, model, numbers, path, reader.line_num)
    except csv.Error as error:
        raise SpecError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error


def _parse(values: dict[str | Any, Any], model: type[Line], numbers: Collection[str], path: Path, line: int) -> Line:
    if None in values or None in values.values():
        raise SpecError(f"{path}:{line}: expected {len(model.model_fields)} fields; is a comma not quoted?")
    blank = {name: None for name in numbers if values[name] == ""}
    try:
        return model.model_validate(values | blank)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise SpecError(f"{path}:{line}: {problems}") from error
