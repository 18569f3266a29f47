"""The files of trained students, compared with what their rows say of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from .checkpoint import sha256
from .row import Row


def unusable_students(root: Path, rows: Iterable[Row]) -> Iterator[str]:
    """A line about each student of a folder of runs that is missing or has changed since its row was written.

    Args:
        root: a folder of runs; those that kept rows alone have no students.
        rows: of this folder and others.
    """
    for row in rows:
        if row.student is None or not (root / row.id / "row.json").is_file():
            continue
        path = root / row.student.file
        if wrong := _wrong(path, row.student.sha256):
            yield f"{path}: {wrong}, so it can neither teach nor be evaluated; restore it, or move the folder away"


def _wrong(path: Path, recorded: str) -> str:
    if not path.is_file():
        return "is no file" if path.exists() else "is missing"
    try:
        return "" if sha256(path) == recorded else "is not what its row was measured of: its sha256 differs"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
