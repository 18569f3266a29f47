"""The results folder for nodes of a Ray cluster that do not see it: an actor on the command's machine.

It holds the leases of the runs that such nodes train, gives them what their jobs need, and writes what comes back.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EngineError, StoreError
from ..records.atomic import write_atomically, writing
from ..records.leases import Leases
from ..records.store import Store
from ..spec.run import Run
from ..train import checkpointing
from ..train.checkpointing import CHECKPOINT, PREVIOUS, STUDENT
from ..train.claim import claim
from ..train.events import Event, FinishedEvent, HeldEvent, to_line
from ..train.job import Job
from ..train.journal import JOURNAL
from .job_files import JobFiles
from .ray_mirror import EVENTS, LOG, ROW, RUNS, SPEC

THREADS = 32
"""Calls that are answered at a time; taking a lease may wait a minute."""


@dataclass
class _Open:
    """A job that a node trains.

    Attributes:
        leases: of its runs, released when this is closed.
        places: bytes of its events and its log that have come.
        lost: another process has taken over one of its runs.
    """

    files: JobFiles
    leases: ExitStack = field(default_factory=ExitStack)
    places: dict[str, int] = field(default_factory=lambda: {EVENTS: 0, LOG: 0})
    lost: bool = False


class Relay:
    """Reads and writes a results folder for jobs on other nodes.

    Args:
        results: folder of runs.
    """

    def __init__(self, results: Path) -> None:
        self.store = Store(results)
        self._open: dict[str, _Open] = {}
        self._closed: set[str] = set()
        self._lock = threading.Lock()  # of both, and of what is written

    def open(self, name: str, node: str) -> dict[str, bytes]:
        """Take the leases of a job's runs for a node.

        Returns:
            Files for the folder in which the job is trained, by their paths in it; none where nothing is to be trained.

        Raises:
            EngineError: this machine's Ray node does not see the results folder either.
            StoreError: it cannot be written.
        """
        files = JobFiles(self.store.root, name)
        job, opened = files.job(), _Open(files)
        if job is None:
            raise EngineError(
                f"the Ray node of the command's machine, {platform.node()}, does not see {self.store.root}; "
                "name a folder that it sees with --results"
            )

        def report(event: Event) -> None:
            _append(files.events, to_line(event).encode() + b"\n")

        def lost(run: str) -> None:
            opened.lost = True
            report(HeldEvent(run=run, holder="another process"))

        with ExitStack() as stack:
            leases = stack.enter_context(Leases(job.results, lost, job.stale, node))
            mine = claim(job.runs, job.before, self.store, leases, report, job.patience)
            if not mine:
                report(FinishedEvent(seconds=0.0))
                return {}
            made = dict(_files(job, mine, self.store))
            with self._lock:
                if name in self._closed:  # it was cancelled meanwhile
                    return {}
                opened.leases = stack.pop_all()
                self._open[name] = opened
        return made

    def append(self, name: str, file: str, place: int, content: bytes) -> bool:
        """Append what a job has written to its events or its log, unless it has come before.

        Args:
            name: of the job.
            file: EVENTS or LOG.
            place: of the content in the node's file, bytes.
            content: from there on.

        Returns:
            Whether the job is to go on.
        """
        with self._lock:
            opened = self._open.get(name)
            if opened is None or opened.lost:
                return False
            new = content[opened.places[file] - place :]
            _append(opened.files.events if file == EVENTS else opened.files.log, new)
            opened.places[file] += len(new)
        return True

    def keep(self, name: str, run: str, file: str, content: bytes) -> bool:
        """Write a file of a run; once that is done, its checkpoints are deleted. Returns whether the job is to go on.

        Raises:
            StoreError: it cannot be written.
        """
        with self._lock:
            opened = self._open.get(name)
            if opened is None or opened.lost:
                return False
            try:
                write_atomically(self.store.folder(run) / file, content)
            except StoreError:
                if opened.lost:
                    return False
                raise
            if file == ROW and (row := self.store.row(run)) and row.status == "done":
                checkpointing.delete(self.store.folder(run))
        return True

    def close(self, name: str) -> None:
        """Release the leases of a job that has ended; what its node still sends is refused."""
        with self._lock:
            self._closed.add(name)
            if opened := self._open.pop(name, None):
                opened.leases.close()


def _append(file: Path, content: bytes) -> None:
    with writing(file), file.open("ab") as stream:
        stream.write(content)


def _files(job: Job, runs: Sequence[Run], store: Store) -> Iterator[tuple[str, bytes]]:
    """What a job needs beside its data, with paths relative to the folder that it is trained in."""
    wanted = {store.folder(run.id) / name for run in runs for name in (CHECKPOINT, PREVIOUS, JOURNAL)}
    teacher = next((run.teacher for run in runs if run.teacher), None)
    given = {teacher.student: file} if teacher and (file := job.teacher_files.get(teacher.student)) else {}
    if teacher and not given:
        wanted |= {store.folder(teacher.id) / name for name in (ROW, STUDENT)}
    for path in sorted(wanted):
        if path.is_file():
            yield f"{RUNS}/{path.parent.name}/{path.name}", path.read_bytes()
    sources = (*job.method_files, *job.network_files)
    places = {folder: f"files/{i}" for i, folder in enumerate(sorted({file.parent for file in sources}))}
    for folder, place in places.items():
        for path in sorted(folder.glob("*.py")):  # they may import what is beside them
            yield f"{place}/{path.name}", path.read_bytes()
    for file in given.values():
        yield f"teacher/{file.name}", file.read_bytes()
    update: dict[str, Any] = {
        "runs": tuple(runs),
        "results": Path(RUNS),
        "teacher_files": {network: Path("teacher") / file.name for network, file in given.items()},
        "method_files": tuple(Path(places[file.parent]) / file.name for file in job.method_files),
        "network_files": tuple(Path(places[file.parent]) / file.name for file in job.network_files),
        "before": {},
        "stale": {},
        "patience": 0.0,
    }
    yield SPEC, job.model_copy(update=update).model_dump_json().encode()
