"""Rows that are kept to compare with, unchanged: `<root>/<commit>-<machine>/rows/<id>.json`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from ..errors import SpecError
from ..records.row import Row
from ..records.store import InvalidRow, read_all, read_row, row_files, run_of, write_atomically
from ..text import counted


def load(folder: Path) -> tuple[list[Row], list[InvalidRow]]:
    """Every row of a folder of runs or of kept rows, and every invalid row.

    Raises:
        SpecError: there is no such folder, or no row in it.
    """
    fix = "name one of runs (`kdbench run --results FOLDER`) or of kept rows (`kdbench baseline`)"
    if not folder.is_dir():
        raise SpecError(f"{folder}: no such folder; {fix}")
    rows, invalid = read_all([folder])
    if not rows and invalid:
        first = f"{invalid[0].path}: {invalid[0].reason}"
        found = counted(len(invalid), "result row")
        raise SpecError(f"{folder}: of {found} none is valid, the first is {first}; {fix}")
    if not rows:
        raise SpecError(f"{folder}: no result row in it; {fix}")
    return rows, invalid


def latest(rows: Iterable[Row], machines: Collection[str] = ()) -> list[Row]:
    """The latest row of each run, of these `machines` where it has any."""
    order = sorted(rows, key=lambda row: (row.environment.machine in machines, row.finished))
    return list({row.run.id: row for row in order}.values())


def keep(folder: Path, root: Path) -> dict[Path, int]:
    """Copy the rows of a folder of runs below `root`; returns how many went into each folder.

    Raises:
        SpecError: there is no such folder, or no row in it.
        StoreError: a folder cannot be written.
    """
    load(folder)
    counts: Counter[Path] = Counter()
    for path in row_files(folder):
        row = read_row(path, run_of(path))
        if isinstance(row, Row):
            target = root / _folder_name(row)
            write_atomically(target / "rows" / f"{row.id}.json", path.read_bytes())
            counts[target] += 1
    return dict(counts)


def _folder_name(row: Row) -> str:
    commit = re.sub(r"[^\w.-]", "-", row.environment.commit.replace("+", "-modified")).lstrip(".-")
    return f"{commit}-{re.sub(r'[^a-z0-9]+', '-', row.environment.machine.lower()).strip('-')}"
