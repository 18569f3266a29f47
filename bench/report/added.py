"""Tables with the entries that requests added to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kdbench import methods
from kdbench.methods.base import MethodError

from ..grid.choose import with_entries
from ..records.added import read_added
from ..spec.table import Table


def with_added(tables: Sequence[Table], results: Path, log: Callable[[str], None]) -> list[Table]:
    """The tables with the methods that `--methods` and `--sweep` added for the runs in a folder.

    A method whose file is gone or broken is shown all the same; it is logged that a change of its code is not seen.

    Raises:
        SpecError: the file that lists the entries is damaged.
    """
    both = []
    for table in tables:
        entries, files = read_added(results, table)
        for name, path in files.items():
            try:
                methods.register(path)
            except MethodError as error:
                log(f"{name}: whether its code has changed since its runs is not known: {error}")
        both.append(with_entries(table, entries))
    return both
