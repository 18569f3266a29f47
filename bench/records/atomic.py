"""Files written whole or not at all, by several processes and hosts at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ..errors import StoreError


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file in the same folder.

    Raises:
        StoreError: the folder cannot be written or the disk is full; an earlier file is untouched.
    """
    write_stream(path, lambda file: file.write(content))


def write_stream(
    path: Path, write: Callable[[IO[bytes]], object], before: Callable[[], None] = lambda: None, sync: bool = True
) -> None:
    """Let `write` write a temporary file in the same folder, call `before` and give the file its name.

    Whether the file may be written is asked as late as possible (see `guarded`). Temporary files of other processes
    stay: these may be writing. Where not `sync`, the file is whole for other processes, but not sure to be on the disk
    if the machine fails.

    Raises:
        StoreError: the folder cannot be written or the disk is full; an earlier file is untouched.
    """
    temporary = None
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.fchmod(handle, 0o666 & ~_umask())
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            check(path)
            before()
            os.replace(temporary, path)
        except BaseException:
            if temporary:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            raise


_guards: list[Callable[[Path], None]] = []
"""Of this process."""


@contextlib.contextmanager
def guarded(guard: Callable[[Path], None]) -> Iterator[None]:
    """In this block `guard` is called with each file that this process is about to write.

    Args:
        guard: raises StoreError for a file that it may not write.
    """
    _guards.append(guard)
    try:
        yield
    finally:
        _guards.remove(guard)


def check(path: Path) -> None:
    """Ask the guards about a file.

    Raises:
        StoreError: it may not be written.
    """
    for guard in tuple(_guards):  # threads of a process may come and go with theirs
        guard(path)


@contextlib.contextmanager
def writing(path: Path, option: str = "--results") -> Iterator[None]:
    """An error of the operating system in this block becomes one that names the file and the fix.

    Args:
        path: that is written.
        option: of the command, by which another folder is chosen.

    Raises:
        StoreError: the folder cannot be written or the disk is full.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space" if full else f"make it writable, or choose another folder with {option}"
        raise StoreError(f"cannot write {path}: {error.strerror or error}; {fix}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
