"""What requests added to tables, kept beside the runs so that tables and figures show their rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, ValidationError

from kdbench.datasets._files import read_bytes

from ..errors import SpecError
from ..spec.schema import MAX_BYTES
from ..spec.table import MethodEntry, Pair, Table
from .atomic import write_atomically

Entries = Mapping[str, Sequence[MethodEntry]]
"""Entries by pair, as `kdbench.grid.pairs.pair_name` names it."""


FOLDER = "added"
"""In a folder of runs."""


class _Added(BaseModel):
    """What is kept of a table: added pairs, added entries by pair, and the users' files that have what they name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str
    files: dict[str, Path] = {}
    networks: tuple[Path, ...] = ()
    entries: dict[str, tuple[MethodEntry, ...]] = {}
    pairs: dict[str, Pair] = {}  # their methods are among the entries


def keep_added(
    results: Path,
    table: Table,
    entries: Entries,
    files: Mapping[str, Path],
    pairs: Mapping[str, Pair] = MappingProxyType({}),
    network_files: Collection[Path] = (),
) -> None:
    """Keep the entries and pairs, beside those of earlier requests; of one name the latest counts.

    Args:
        results: folder of runs.
        table: that they were added to.
        entries: by pair; nothing is written without any. Of an added pair all that it has.
        files: by method, the user's file that has it.
        pairs: added ones, by name.
        network_files: users' files that have networks.

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
    after = _Added(
        table=table.name,
        files={**before.files, **files},
        networks=tuple(sorted({*before.networks, *network_files})),
        entries=both,
        pairs={**before.pairs, **{name: pair.model_copy(update={"methods": ()}) for name, pair in pairs.items()}},
    )
    if after != before:
        write_atomically(_file(results, table), after.model_dump_json(indent=1, exclude_defaults=True).encode())


def read_added(results: Path, table: Table) -> tuple[Entries, Mapping[str, Pair]]:
    """The entries and the pairs that were added to a table, by pair.

    Raises:
        SpecError: the file is damaged; names it.
    """
    added = _read(_file(results, table), table.name)
    return added.entries, added.pairs


def added_files(results: Path) -> tuple[dict[str, Path], set[Path]]:
    """The users' files that have methods of a folder's runs, by method, and those that have networks.

    Raises:
        SpecError: a file that lists them is damaged; names it.
    """
    methods: dict[str, Path] = {}
    networks: set[Path] = set()
    for path in sorted((results / FOLDER).glob("*.json")):
        added = _read(path, "")
        methods |= added.files
        networks |= set(added.networks)
    return methods, networks


def merge_added(source: Path, target: Path) -> None:
    """Add what requests added in one folder of runs to what they added in another; of one name the target's counts.

    Raises:
        SpecError: a file that lists it is damaged.
        StoreError: the target cannot be written.
    """
    for path in sorted((source / FOLDER).glob("*.json")):
        theirs, place = _read(path, ""), target / FOLDER / path.name
        ours = _read(place, theirs.table)
        pairs = theirs.entries.keys() | ours.entries.keys()
        entries = {
            pair: tuple(
                {e.display_name: e for e in (*theirs.entries.get(pair, ()), *ours.entries.get(pair, ()))}.values()
            )
            for pair in sorted(pairs)
        }
        after = _Added(
            table=theirs.table,
            files={**theirs.files, **ours.files},
            networks=tuple(sorted({*theirs.networks, *ours.networks})),
            entries=entries,
            pairs={**theirs.pairs, **ours.pairs},
        )
        if after != ours:
            write_atomically(place, after.model_dump_json(indent=1, exclude_defaults=True).encode())


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
