"""Files of one record beside a row, such as `classes.json`: JSON with a checksum at the end."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from kdbench.datasets._files import read_bytes

from .atomic import write_atomically
from .history import Record
from .row_file import CHECKSUM, MAX_BYTES, InvalidRow, with_checksum

R = TypeVar("R", bound=Record)


def write_record(path: Path, record: Record) -> None:
    """Write a record.

    Raises:
        StoreError: the folder cannot be written or the disk is full.
    """
    write_atomically(path, with_checksum(record.model_dump_json().removesuffix("}").encode()))


def read_record(path: Path, kind: type[R]) -> R | InvalidRow | None:
    """The record in a file, or why it is not valid; None where there is no file."""
    try:
        content = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        return InvalidRow(path, f"cannot be read: {error.strerror or error}", damaged=False)
    end = CHECKSUM.search(content, max(0, len(content) - 64))
    if end is None or end.end() != len(content) or int(end[1], 16) != zlib.crc32(content[: end.start()]):
        return InvalidRow(path, "checksum: differs from the file's content, which is damaged or was edited by hand")
    try:
        return kind.model_validate_json(content[: end.start()] + b"}")
    except ValidationError as error:
        first = error.errors()[0]
        return InvalidRow(path, ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]])))
