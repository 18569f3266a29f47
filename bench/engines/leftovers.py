"""What finished runs do not need, whose job or command was killed before it deleted that."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ..records.leases import Leases
from ..records.row import Row
from ..records.store import Store
from ..train.checkpointing import CHECKPOINT
from ..train.checkpointing import delete as delete_checkpoints
from .job_files import JobFiles


def delete_leftovers(store: Store, leases: Leases, rows: Iterable[Row]) -> None:
    """Delete the files of jobs whose runs are all done, and checkpoints and leases of runs that are.

    In a folder that cannot be written they stay.

    Args:
        store: of the runs.
        leases: of this process.
        rows: of the runs.
    """
    for files in JobFiles.all(store.root):
        if files.is_settled({"done"}):
            with suppress(OSError):
                files.delete(with_log=True)
    for row in rows:
        folder = store.folder(row.run.id)
        if row.status == "done" and leases.holder(row.run.id) is None:
            with suppress(OSError):
                leases.delete_stale(row.run.id)
                if (folder / CHECKPOINT).exists():
                    delete_checkpoints(folder)
