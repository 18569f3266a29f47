"""What requests added to tables: entries, pairs, and the users' files of methods and networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kdbench import methods
from kdbench.methods.base import MethodError

from ..errors import SpecError
from ..grid.choose import with_entries
from ..records.added import added_files, read_added
from ..records.store import check_folder
from ..spec import network_name
from ..spec.table import Table


def with_added(tables: Sequence[Table], results: Path) -> list[Table]:
    """The tables with the methods and pairs that requests added for the runs in a folder.

    Raises:
        SpecError: the file that lists them is damaged.
    """
    return [with_entries(table, *read_added(results, table)) for table in tables]


def register_files(results: Path, log: Callable[[str], None]) -> None:
    """Make the methods and networks known that are in users' files, so that rows of changed ones are seen to be stale.

    A file that is gone or broken is logged; its rows are shown all the same.

    Raises:
        SpecError: a file that lists them is damaged.
    """
    check_folder(results)
    method_files, network_files = added_files(results)
    for register, files in ((methods.register, method_files.values()), (network_name.register, network_files)):
        for path in files:
            try:
                register(path)
            except (MethodError, SpecError) as error:
                log(f"{path.name}: whether its code has changed since its runs is not known: {error}")
