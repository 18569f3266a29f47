"""A job on a node that does not see the results folder: trained in a temporary folder, whose changes are sent there.

What a job needs comes from the command's machine (`ray_relay.Relay`), and what it writes goes back in the order in
which it was written: points, checkpoint, weights, row, events. Nothing here imports torch.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray

from ..train.journal import JOURNAL

SPEC, EVENTS, LOG, RUNS = "job.json", "events.jsonl", "log", "runs"
"""In the folder of a job."""

ROW, CHECKPOINT = "row.json", "checkpoint.pt"  # as in records.store and train.checkpointing
LOCAL = re.compile(r"lease\.\d+|\..*|checkpoint\.previous\.pt")
"""Names of files of a run that are not sent."""

PREFIX = "kdbench-job-"
OLD = 60.0
"""Seconds after which a folder without a lock is that of a killed process."""

Version = tuple[int, int, int]


class LostRunError(RuntimeError):
    """Another process has taken over a run of this job, or the job has ended for its command."""


class Mirror:
    """The folder of a job, and what of it the results folder has.

    Args:
        relay: actor that writes into the results folder.
        name: of the job.
        folder: empty.

    Attributes:
        ready: whether there is anything to train.
    """

    def __init__(self, relay: Any, name: str, folder: Path) -> None:
        self.relay, self.name, self.folder = relay, name, folder
        self.spec, self.events, self.log = folder / SPEC, folder / EVENTS, folder / LOG
        self._sent: dict[Path, Version] = {}
        self._places = {EVENTS: 0, LOG: 0}
        files = ray.get(relay.open.remote(name, platform.node()))
        self.ready = bool(files)
        (folder / RUNS).mkdir()
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        self._sent = {file: _version(file.stat()) for file in folder.glob(f"{RUNS}/*/*")}

    def send(self) -> None:
        """Send what has changed.

        Raises:
            LostRunError: the job is to end at once.
            RayError: the results folder cannot be written, or the command has ended.
        """
        # Read before the files that they tell of, and sent after them.
        lines, log = self._new(self.events), self._new(self.log)
        for folder in (self.folder / RUNS).iterdir():
            self._send_run(folder)
        self._append(LOG, log)
        self._append(EVENTS, lines[: lines.rfind(b"\n") + 1])

    def _send_run(self, folder: Path) -> None:
        """Send the files of a run, each at least as new as what is sent after it needs: they are read in reverse."""
        files = [file for file in folder.iterdir() if not LOCAL.fullmatch(file.name)]
        read: list[tuple[Path, Version, bytes]] = []
        for file in sorted(files, key=_order, reverse=True):
            with suppress(FileNotFoundError), file.open("rb") as stream:
                version = _version(os.fstat(stream.fileno()))
                if self._sent.get(file) != version:
                    read.append((file, version, stream.read()))
        if all(file.name == JOURNAL for file, _, _ in read):
            return  # points are of use beside the checkpoint that follows them
        for file, version, content in reversed(read):
            self._call(self.relay.keep, folder.name, file.name, content)
            self._sent[file] = version

    def _new(self, file: Path) -> bytes:
        with suppress(FileNotFoundError), file.open("rb") as stream:
            stream.seek(self._places[file.name])
            return stream.read()
        return b""

    def _append(self, file: str, content: bytes) -> None:
        if content:
            self._call(self.relay.append, file, self._places[file], content)
            self._places[file] += len(content)

    def _call(self, method: Any, *given: Any) -> None:
        if not ray.get(method.remote(self.name, *given)):
            raise LostRunError(f"{self.name} is not this node's any more")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder, locked while this process lives; those that killed processes left are deleted."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > OLD:
                with _locked(left):
                    shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name, _locked(Path(name)):
        yield Path(name)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock that ends with this process.

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _order(file: Path) -> int:
    """When a job writes a file, relative to the others of a run."""
    return {JOURNAL: 0, CHECKPOINT: 1, ROW: 3}.get(file.name, 2)


def _version(status: os.stat_result) -> Version:
    return status.st_mtime_ns, status.st_ino, status.st_size
