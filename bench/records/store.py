"""Result rows on disk: one JSON file a run, written atomically; files that are not valid rows are reported."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import StoreError
from .atomic import write_atomically
from .row import Row
from .row_file import InvalidRow, RowReader, encode, read_row

__all__ = [
    "InvalidRow", "Store", "Version", "check_folder", "no_garbage_collection", "read_all", "read_row", "read_rows",
    "row_files", "run_of", "share_equal_parts", "write_atomically",
]  # fmt: skip

RUN_ID = re.compile(r"[0-9a-f]{16}")

Version = tuple[int, int, int] | None
"""Of a row's file: time, number and size."""


class Store:
    """The folder of runs: `<root>/<id>/` holds one run's row, checkpoint and student."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, run_id: str) -> Path:
        return self.root / run_id

    def row_file(self, run_id: str) -> Path:
        return self.folder(run_id) / "row.json"

    def row(self, run_id: str) -> Row | None:
        """The row of a run, or None where it has no valid one."""
        row = self.read(run_id)
        return row if isinstance(row, Row) else None

    def read(self, run_id: str) -> Row | InvalidRow | None:
        """What is in place of a run's row; None where nothing is."""
        path = self.row_file(run_id)
        return read_row(path, run_id) if path.exists() else None

    def version(self, run_id: str) -> Version:
        """What changes whenever a run's row is written; None where it has none."""
        try:
            status = self.row_file(run_id).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def irreplaceable(self, run_id: str) -> str:
        """What to do about a file in place of a run's row that is of another version or cannot be read; else empty."""
        found = self.read(run_id)
        return found.advice if isinstance(found, InvalidRow) and not found.damaged else ""

    def write(self, row: Row) -> Path:
        """Write a row atomically; returns its file.

        Raises:
            StoreError: the folder cannot be written, the disk is full, or the run has a row of another version.
        """
        if advice := self.irreplaceable(row.id):
            raise StoreError(advice)
        path = self.row_file(row.id)
        write_atomically(path, encode(row))
        return path


def read_rows(roots: Iterable[Path]) -> tuple[list[Row], list[InvalidRow]]:
    """One row for each run below `roots`, the first where it has several, and all invalid rows."""
    rows, invalid = read_all(roots)
    return first_of_each_run(rows), invalid


def first_of_each_run(rows: Iterable[Row]) -> list[Row]:
    """The first row of each run."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.id, row)
    return list(first.values())


def read_all(roots: Iterable[Path]) -> tuple[list[Row], list[InvalidRow]]:
    """All rows below `roots`, of a run those of every commit and machine, and all invalid rows."""
    with no_garbage_collection():
        reader = RowReader()
        read = [reader.read(path, run_of(path)) for root in roots for path in row_files(root)]
        rows = [row for row in read if isinstance(row, Row)]
        return rows, [row for row in read if isinstance(row, InvalidRow)]


def share_equal_parts(rows: Iterable[Row]) -> list[Row]:
    """The rows, with one object for equal data, recipes and teachers, as `read_all` returns them."""
    reader = RowReader()
    return [row.model_copy(update={"run": reader.share(row.run)}) for row in rows]


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable the search for reference cycles: rows have none, and it takes longer than reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def row_files(root: Path) -> list[Path]:
    """All files below a folder that should be rows, sorted: of runs, of one baseline, of several.

    Raises:
        StoreError: it is no folder.
    """
    check_folder(root)
    if not root.is_dir():
        return []
    files: list[Path] = []
    for name in sorted(os.listdir(root)):
        folder = root / name
        if RUN_ID.fullmatch(name):  # a run's; most folders are, and looking for one file is faster than listing
            if os.path.lexists(f"{root}/{name}/row.json"):  # a broken link is reported
                files.append(folder / "row.json")
            continue
        if name == "rows":
            files += sorted(folder.glob("*.json"))
        try:
            inside = os.listdir(folder)
        except NotADirectoryError:
            continue
        if "row.json" in inside:
            files.append(folder / "row.json")
        if "rows" in inside:
            files += sorted((folder / "rows").glob("*.json"))
    return files


def check_folder(root: Path) -> None:
    """Refuse what cannot become or be a folder of runs.

    Raises:
        StoreError: it is a file, or a link to nothing.
    """
    if os.path.lexists(root) and not root.is_dir():
        raise StoreError(f"{root}: is no folder of runs but a file, or a broken link; give the folder")


def run_of(path: Path) -> str | None:
    """The run whose folder one of `row_files` is in; None for rows that were kept by `kdbench baseline`."""
    return path.parent.name if path.name == "row.json" else None
