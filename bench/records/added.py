"""Entries that a request added to tables, kept beside its runs so that tables and figures show their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kdbench.datasets._files import read_bytes

from ..errors import SpecError
from ..spec.schema import MAX_BYTES
from ..spec.table import MethodEntry, Table
from .atomic import write_atomically

Entries = Mapping[str, Sequence[MethodEntry]]
"""Entries by pair, as `kdbench.grid.pairs.pair_name` names it."""


FOLDER = "added"
"""In a folder of runs."""


class _Added(BaseModel):
    """What is kept of a table: its added entries by pair, and the users' files that have their methods."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str
    files: dict[str, Path] = {}
    entries: dict[str, tuple[MethodEntry, ...]] = {}


def keep_added(results: Path, table: Table, entries: Entries, files: Mapping[str, Path]) -> None:
    """Keep the entries, beside those of earlier requests; of one name the latest counts.

    Args:
        results: folder of runs.
        table: that they were added to.
        entries: by pair; nothing is written without any.
        files: by method, the user's file that has it.

    Raises:
        StoreError: the folder cannot be written.
    """
    if not any(entries.values()):
        return
    before = _read(_file(results, table), table.name)
    both = {
        pair: tuple({e.display_name: e for e in (*before.entries.get(pair, ()), *entries.get(pair, ()))}.values())
        for pair in before.entries.keys() | entries.keys()
    }
    after = _Added(table=table.name, files={**before.files, **files}, entries=both)
    if after != before:
        write_atomically(_file(results, table), after.model_dump_json(indent=1, exclude_defaults=True).encode())


def read_added(results: Path, table: Table) -> Entries:
    """The entries that were added to a table, by pair.

    Raises:
        SpecError: the file is damaged; names it.
    """
    return _read(_file(results, table), table.name).entries


def method_files(results: Path) -> dict[str, Path]:
    """The users' files that have methods of a folder's runs, by method.

    Raises:
        SpecError: a file that lists them is damaged; names it.
    """
    found: dict[str, Path] = {}
    for path in sorted((results / FOLDER).glob("*.json")):
        found |= _read(path, "").files
    return found


def _file(results: Path, table: Table) -> Path:
    return results / FOLDER / f"{table.file_stem}.json"


def _read(path: Path, table: str) -> _Added:
    try:
        return _Added.model_validate_json(read_bytes(path, MAX_BYTES))
    except FileNotFoundError:
        return _Added(table=table)
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is damaged"
        raise SpecError(
            f"{path}: {reason}; it lists methods that were added with --methods; delete it, and name them again"
        ) from error
