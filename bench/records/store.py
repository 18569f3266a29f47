"""Result rows on disk: one JSON file a run, written atomically; files that are not valid rows are reported."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import StoreError
from ..spec.schema import digest
from .row import SCHEMA, Row


@dataclass(frozen=True)
class InvalidRow:
    """A file that is not a valid result row, and the reason."""

    path: Path
    reason: str


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
        path = self.row_file(run_id)
        if not path.exists():
            return None
        row = read_row(path)
        return row if isinstance(row, Row) else None

    def write(self, row: Row) -> Path:
        """Write a row atomically; returns its file.

        Raises:
            StoreError: the folder cannot be written or the disk is full.
        """
        path = self.row_file(row.id)
        write_atomically(path, row.model_dump_json(indent=1).encode())
        return path


PATTERNS = ("*/row.json", "rows/*.json", "*/rows/*.json")
"""Rows below a folder: of runs, of one baseline, of several."""


def read_rows(roots: Iterable[Path]) -> tuple[list[Row], list[InvalidRow]]:
    """One row for each run below `roots`, the first where it has several, and all invalid rows."""
    rows, invalid = read_all(roots)
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.id, row)
    return list(first.values()), invalid


def read_all(roots: Iterable[Path]) -> tuple[list[Row], list[InvalidRow]]:
    """All rows below `roots`, of a run those of every commit and machine, and all invalid rows."""
    with _no_garbage_collection():
        read = [read_row(path) for root in roots for path in row_files(root)]
        valid = share_equal_parts(row for row in read if isinstance(row, Row))
        return valid, [row for row in read if isinstance(row, InvalidRow)]


def share_equal_parts(rows: Iterable[Row]) -> list[Row]:
    """The rows, with one object for equal data, recipes and teachers, so that comparing these is fast."""
    objects: dict[str, Any] = {}

    def shared(row: Row) -> Row:
        parts = {"data": row.run.data, "recipe": row.run.recipe, "teacher": row.run.teacher}
        update = {name: objects.setdefault(part.model_dump_json(), part) for name, part in parts.items() if part}
        return row.model_copy(update={"run": row.run.model_copy(update=update)})

    return [shared(row) for row in rows]


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable the search for reference cycles: rows have none, and it takes longer than reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def row_files(root: Path) -> list[Path]:
    """All files below a folder that should be rows, sorted."""
    return sorted(path for pattern in PATTERNS for path in root.glob(pattern))


def read_row(path: Path) -> Row | InvalidRow:
    """The row in a file, of this or an earlier version of kdbench.

    Its id must be the hash of its spec as it was written; fields that specs got later have their defaults.
    """
    try:
        content = path.read_bytes()
        row = Row.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return InvalidRow(path, f"{where}: {first['msg']}" if where else str(first["msg"]))
    except OSError as error:
        return InvalidRow(path, str(error))
    if row.schema_version != SCHEMA:
        return InvalidRow(path, f"schema_version: {row.schema_version} is not {SCHEMA}, which this version reads")
    if (expected := _run_id(_WrittenRow.model_validate_json(content).run)) != row.id:
        return InvalidRow(path, f"id {row.id} is not the hash of its spec ({expected}); edited by hand?")
    return row


class _WrittenRow(BaseModel):
    """A row's spec with the keys of the file; the rest is skipped, which is faster than `json.loads`."""

    run: dict[str, Any]


def _run_id(spec: dict[str, Any]) -> str:
    """`Run.id`, of a spec as it was written."""
    hashed = {**spec, "recipe": _without_prose(spec["recipe"])}
    if spec.get("teacher"):
        hashed["teacher"] = {**spec["teacher"], "recipe": _without_prose(spec["teacher"]["recipe"])}
    return digest(hashed)


def _without_prose(recipe: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in ("name", "source")}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file in the same folder.

    Raises:
        StoreError: the folder cannot be written or the disk is full; an earlier file is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*"):  # of a process that was killed while writing
            leftover.unlink(missing_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.fchmod(handle, 0o666 & ~_umask())
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space" if full else "make it writable, or choose another folder with --results"
        raise StoreError(f"cannot write {path}: {error.strerror or error}; {fix}") from error
