"""What requests added to tables: entries, and the users' files of methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kdbench import methods
from kdbench.methods.base import MethodError

from ..grid.choose import with_entries
from ..records.added import method_files, read_added
from ..spec.table import Table


def with_added(tables: Sequence[Table], results: Path) -> list[Table]:
    """The tables with the methods that `--methods` and `--sweep` added for the runs in a folder.

    Raises:
        SpecError: the file that lists them is damaged.
    """
    return [with_entries(table, read_added(results, table)) for table in tables]


def register_methods(results: Path, log: Callable[[str], None]) -> None:
    """Make the methods known that are in users' files, so that rows of changed ones are seen to be stale.

    A file that is gone or broken is logged; its rows are shown all the same.

    Raises:
        SpecError: a file that lists them is damaged.
    """
    for name, path in method_files(results).items():
        try:
            methods.register(path)
        except MethodError as error:
            log(f"{name}: whether its code has changed since its runs is not known: {error}")
