"""Leases: each run of a results folder is trained by one process, though several processes and hosts work on it.

A lease is a file `lease.<n>` in the run's folder, created exclusively; the highest n counts. Its holder rewrites it
every few seconds. A lease that has not changed for a minute is stale, and whoever creates `lease.<n+1>` takes over.
No clock is compared with another, and nothing is locked, so any file system will do. On one machine the lease of a
process that has ended is stale at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import StoreError
from ..spec.schema import digest
from .atomic import guarded, writing

HEARTBEAT = 10.0  # seconds
STALE = 60.0  # seconds without a change

NAME = re.compile(r"lease\.(\d{1,9})")


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease.

    Attributes:
        host: name of its machine.
        process: its number there.
        scope: of that number: equal for processes that can see each other.
        started: when the process started, to tell it from a later one of that number; empty where it is not known.
        node: machine that trains for it; empty where that is its own.
    """

    host: str
    process: int
    scope: str
    started: str
    node: str = ""

    def __str__(self) -> str:
        if not self.process:
            return "another process"
        return f"{f'{self.node} for ' if self.node else ''}process {self.process} on {self.host}"


UNKNOWN = Holder("", 0, "", "")
"""Of a lease that is being written."""


@dataclass
class _Held:
    path: Path
    beat: int
    changed: float  # on this process' clock
    lost: bool = False


class Leases:
    """The leases of this process in one results folder; as a context manager it keeps them alive, and releases them.

    In its context this process writes no file of a run whose lease it has lost.

    Args:
        root: folder of runs.
        lost: is called with each run that another process has taken over, in another thread or where this one is about
            to write a file of the run.
        stale: by run, the content of a lease that another process has found to be stale, as `stale_lease` returns it.
        node: machine that trains for this process; empty where that is its own.

    Attributes:
        nonce: is in each lease of this process and no other's.
    """

    def __init__(
        self,
        root: Path,
        lost: Callable[[str], None] = lambda _: None,
        stale: Mapping[str, str] | None = None,
        node: str = "",
    ) -> None:
        self.root, self.lost, self._known = root, lost, dict(stale or {})
        self.me = replace(this_process(), node=node)
        self.nonce = uuid.uuid4().hex
        self._held: dict[str, _Held] = {}
        self._seen: dict[Path, tuple[bytes, float]] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True)
        self._context = contextlib.ExitStack()

    def __enter__(self) -> Leases:
        self._context.enter_context(guarded(self._confirm))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._context.close()
        self.release([*self._held])

    def take(self, run_id: str) -> Holder | None:
        """Take the lease of a run; None if it is now held here, else who holds it.

        Raises:
            StoreError: the folder cannot be written.
        """
        folder = self.root / run_id
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            number, path = _latest(folder)
            before = _content(path)
            if path is not None and not self._is_stale(path, before):
                return read_holder(before)
            taken = folder / f"lease.{number + 1}"
            try:
                descriptor = os.open(taken, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                return read_holder(_content(taken))
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._text(0))
            # Meanwhile another process may have taken over, ended, and a third may have begun.
            if _latest(folder)[0] != number + 1 or _content(path) not in (before, None):
                taken.unlink(missing_ok=True)
                return UNKNOWN
            if path is not None:
                path.unlink(missing_ok=True)
            for leftover in folder.glob(".*"):  # temporary files of a process that was killed while writing
                leftover.unlink(missing_ok=True)
        with self._lock:
            self._held[run_id] = _Held(taken, 0, time.monotonic())
        return None

    def holder(self, run_id: str) -> Holder | None:
        """The process that holds the lease of a run, if any does."""
        folder = self.root / run_id
        if not folder.is_dir():
            return None
        path = _latest(folder)[1]
        content = _content(path)
        return None if path is None or self._is_stale(path, content) else read_holder(content)

    def stale_lease(self, run_id: str) -> str:
        """The content of a run's lease that is stale, for a process that has not watched it; empty without one."""
        folder = self.root / run_id
        path = _latest(folder)[1] if folder.is_dir() else None
        content = _content(path)
        return content.decode(errors="replace") if content and path and self._is_stale(path, content) else ""

    def last_beat(self, run_id: str) -> float | None:
        """When the lease of a run was last rewritten, on the clock of its file system; None without one."""
        path = _latest(self.root / run_id)[1]
        try:
            return path.stat().st_mtime if path is not None else None
        except FileNotFoundError:
            return None

    def delete_stale(self, run_id: str) -> None:
        """Delete the lease that a process left behind which ended after its run was finished."""
        path = _latest(self.root / run_id)[1]
        if path is not None and self._is_stale(path, _content(path)):
            path.unlink(missing_ok=True)

    def release(self, run_ids: Iterable[str]) -> None:
        """Give up leases; those that were lost stay with their holders."""
        with self._lock:
            held = [self._held.pop(run_id) for run_id in run_ids if run_id in self._held]
        for each in held:
            # Where the folder is gone or cannot be written any more, the lease becomes stale.
            with contextlib.suppress(OSError):
                if self.nonce.encode() in (_content(each.path) or b""):
                    each.path.unlink()

    def _is_stale(self, path: Path, content: bytes | None) -> bool:
        """Whether a lease's holder has ended, or has not changed it for long while this process looked."""
        if content is None:
            return False  # released just now; the next try takes it
        if self._known.get(path.parent.name) == content.decode(errors="replace"):
            return True
        holder, now = read_holder(content), time.monotonic()
        if has_ended(holder, self.me.scope):
            return True
        if self._seen.get(path, (None, 0.0))[0] != content:
            self._seen[path] = content, now
        return now - self._seen[path][1] > STALE

    def _keep_alive(self) -> None:
        while not self._end.wait(HEARTBEAT):
            with self._lock:
                held = [run_id for run_id, each in self._held.items() if not each.lost]
            for run_id in held:
                if not self._holds(run_id):
                    self.lost(run_id)

    def _confirm(self, path: Path) -> None:
        """Keep this process from writing a file of a run that another one has taken over, as while it was stopped.

        Raises:
            StoreError: another one has.
        """
        run_id = path.parent.name
        if path.parent.parent == self.root and not self._holds(run_id):
            self.lost(run_id)
            raise StoreError(f"cannot write {path}: another process has taken over the run; it trains it now")

    def _holds(self, run_id: str) -> bool:
        """Whether the lease of a run is not lost, which others then see; so it is for runs that were never held."""
        with self._lock:
            held = self._held.get(run_id)
            if held is not None and not held.lost:
                held.lost = not self._beat(held)
            return held is None or not held.lost

    def _beat(self, held: _Held) -> bool:
        """Change a lease; False where another process has taken over, or where it could not be changed for too long."""
        try:
            if _latest(held.path.parent)[1] != held.path:
                return False
            with held.path.open("r+b") as file:
                if self.nonce.encode() not in file.read():
                    return False  # numbers begin again where a lease was released
                file.seek(0)
                file.write(self._text(held.beat + 1))
        except FileNotFoundError:
            return False
        except OSError:  # of a network file system that does not answer for a while
            return time.monotonic() - held.changed < STALE
        held.beat, held.changed = held.beat + 1, time.monotonic()
        return True

    def _text(self, beat: int) -> bytes:
        """Of one length, so that it can be rewritten in place."""
        fields = vars(self.me) | {"nonce": self.nonce, "beat": f"{beat:012}"}
        return json.dumps(fields).encode()


@contextlib.contextmanager
def writing_for(root: Path, nonce: str) -> Iterator[None]:
    """In this block this process writes no file of a run whose lease another one has lost, for which it trains.

    Args:
        root: folder of runs.
        nonce: of that one's `Leases`.
    """

    def confirm(path: Path) -> None:
        folder = path.parent
        if folder.parent == root and nonce.encode() not in (_content(_latest(folder)[1]) or b""):
            raise StoreError(f"cannot write {path}: another process has taken over the run; it trains it now")

    with guarded(confirm):
        yield


def _latest(folder: Path) -> tuple[int, Path | None]:
    """Number and file of the lease that counts; 0 and None without one."""
    found = {int(match[1]): folder / name for name in os.listdir(folder) if (match := NAME.fullmatch(name))}
    number = max(found, default=0)
    return number, found.get(number)


def _content(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path is not None else None
    except FileNotFoundError:
        return None


def read_holder(content: bytes | None) -> Holder:
    """The process in a line of JSON, such as a lease's; `UNKNOWN` where it is not whole."""
    try:
        fields = json.loads(content or b"")
        known = str(fields["host"]), int(fields["process"]), str(fields["scope"]), str(fields["started"])
        return Holder(*known, str(fields.get("node", "")))
    except (ValueError, KeyError, TypeError):
        return UNKNOWN


def this_process() -> Holder:
    """This process, as the holder of leases."""
    return Holder(platform.node(), os.getpid(), _scope(), _started(os.getpid()))


def has_ended(holder: Holder, scope: str) -> bool:
    """Whether a process has ended, as far as is known in the scope of another one."""
    return holder.scope == scope and holder.process > 0 and not _is_alive(holder)


def _scope() -> str:
    """Of process numbers: a machine since it was started, and a container on it.

    Of a job of Slurm on one node, the job: when Slurm starts it again, its earlier process has ended, whatever machine
    that was on.
    """
    number = os.environ.get("SLURM_JOB_ID")
    if number and os.environ.get("SLURM_JOB_NUM_NODES", "1") == "1":
        return digest(["slurm", os.environ.get("SLURM_CLUSTER_NAME", ""), number])
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # not on Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return digest(parts)


def _is_alive(holder: Holder) -> bool:
    try:
        os.kill(holder.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _started(holder.process) == holder.started


def _started(process: int) -> str:
    """When a process started; empty for one that has ended, or where it is not known."""
    return next(_fields(process), "")


def _fields(process: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        if state not in ("Z", "X"):
            yield fields[18]
