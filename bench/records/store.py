"""Result rows on disk: one JSON file a run, written atomically; read into memory with every misfit reported."""

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
class Misfit:
    """A file that is no result row, and why."""

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
        """The row of a run, or None when there is none that fits the schema."""
        path = self.row_file(run_id)
        if not path.exists():
            return None
        found = read_row(path)
        return found if isinstance(found, Row) else None

    def write(self, row: Row) -> Path:
        """Keep a row; the file is whole or absent, whatever happens in between.

        Raises:
            StoreError: the folder cannot be written or the disk is full.
        """
        path = self.row_file(row.id)
        write_atomically(path, row.model_dump_json(indent=1).encode())
        return path


PLACES = ("*/row.json", "rows/*.json", "*/rows/*.json")
"""Where rows stand below a folder: of runs, of one kept set, of several."""


def read_rows(roots: Iterable[Path]) -> tuple[list[Row], list[Misfit]]:
    """Every run's row below `roots`, the first where it has several, and every file that should be one and is not."""
    rows, misfits = read_all(roots)
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.id, row)
    return list(first.values()), misfits


def read_all(roots: Iterable[Path]) -> tuple[list[Row], list[Misfit]]:
    """Every row below `roots`, a run's at every commit and machine, and every misfit. Nothing is guessed."""
    with _uncollected():
        found = [read_row(path) for root in roots for path in row_files(root)]
        return shared(row for row in found if isinstance(row, Row)), [row for row in found if isinstance(row, Misfit)]


def shared(rows: Iterable[Row]) -> list[Row]:
    """The same rows, with one object for all data, recipes or teachers of the same JSON: such are compared at once."""
    known: dict[str, Any] = {}

    def one(row: Row) -> Row:
        parts = {"data": row.run.data, "recipe": row.run.recipe, "teacher": row.run.teacher}
        kept = {name: known.setdefault(part.model_dump_json(), part) for name, part in parts.items() if part}
        return row.model_copy(update={"run": row.run.model_copy(update=kept)})

    return [one(row) for row in rows]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for garbage in cycles: rows hold none, and it takes longer than reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def row_files(root: Path) -> list[Path]:
    """Every file below a folder that should be a row, in order."""
    return sorted(path for place in PLACES for path in root.glob(place))


def read_row(path: Path) -> Row | Misfit:
    """A row whose spec is what was hashed when it was written; a field that specs got since has its default."""
    try:
        content = path.read_bytes()
        row = Row.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Misfit(path, f"{where}: {first['msg']}" if where else str(first["msg"]))
    except OSError as error:
        return Misfit(path, str(error))
    if row.schema_version != SCHEMA:
        return Misfit(path, f"schema_version: {row.schema_version} is not {SCHEMA}, the one that this kdbench reads")
    if (written := _hash(_Written.model_validate_json(content).run)) != row.id:
        return Misfit(path, f"id {row.id} is not the hash of its spec ({written}); edited by hand?")
    return row


class _Written(BaseModel):
    """A row's spec as it stands in the file; the rest is passed over, which is faster than `json.loads`."""

    run: dict[str, Any]


def _hash(spec: dict[str, Any]) -> str:
    """`specs.Run.id`, of a spec as it was written."""
    bare = {**spec, "recipe": _bare(spec["recipe"])}
    if spec.get("teacher"):
        bare["teacher"] = {**spec["teacher"], "recipe": _bare(spec["teacher"]["recipe"])}
    return digest(bare)


def _bare(recipe: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in ("name", "source")}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file in the same folder.

    Raises:
        StoreError: the folder cannot be written or the disk is full; a file that was there before is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):  # by a process that was killed while writing
            left.unlink(missing_ok=True)
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
        mend = "free some space" if full else "make it writable, or choose another folder with --results"
        raise StoreError(f"cannot write {path}: {error.strerror or error}; {mend}") from error
