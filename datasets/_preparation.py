"""Generated data folders: written to a temporary folder with a manifest, then renamed.

A folder is complete only if its manifest is the expected one and number and sizes of its files match the manifest, so a
partly written folder is detected and written again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from . import _files
from ._errors import DataError
from ._images import files_in

MANIFEST = "fingerprint.json"


def prepare(folder: Path, expected: dict[str, Any], write: Callable[[Path], str]) -> tuple[str, ...]:
    """Write `folder` unless it is complete.

    Args:
        folder: the folder of the data.
        expected: entries of the manifest, known before anything is written.
        write: fills an empty folder and returns the sha256 of its content, which is added to the manifest.

    Returns:
        What was done, one line each; empty if the folder was complete.

    Raises:
        DataError: the folder cannot be written (full or read-only disk); no partly written folder is left.
    """
    reason = defect(folder, expected)
    if not reason:
        return ()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder) as locked:
            if not (reason := defect(folder, expected)):
                return ()
            if locked:
                _remove_leftovers(folder)
            existed = folder.exists()
            _write(folder, expected, write)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); free some space or allow writing there, or "
            "choose another place with KDBENCH_DATA"
        ) from error
    return (f"{folder}: was incomplete ({reason}) and has been written again" if existed else f"{folder}: prepared",)


def defect(folder: Path, expected: dict[str, Any]) -> str:
    """Why `folder` is incomplete; empty if it is complete."""
    try:
        manifest = _files.parse_json(_files.read_bytes(folder / MANIFEST))
    except (OSError, _files.JsonError):
        return f"no readable {MANIFEST}"
    if not isinstance(manifest, dict) or {key: manifest.get(key) for key in expected} != expected:
        return f"{MANIFEST} is of another version"
    if manifest.get("files") != _inventory(folder):
        return "files are missing or have another size"
    return ""


def _inventory(folder: Path) -> dict[str, list[int]]:
    """Number of files and their total bytes, for each folder and file directly in `folder`."""
    inventory = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            sizes = [(entry / name).stat().st_size for name in files_in(entry)]
            inventory[entry.name] = [len(sizes), sum(sizes)]
        elif entry.is_file() and entry.name != MANIFEST:
            inventory[entry.name] = [1, entry.stat().st_size]
    return inventory


def _write(folder: Path, expected: dict[str, Any], write: Callable[[Path], str]) -> None:
    """Write the data to a temporary folder beside `folder`, then rename."""
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
    try:
        content = temporary / "new"
        content.mkdir()
        manifest = {**expected, "content_sha256": write(content), "files": _inventory(content)}
        for file in sorted(content.rglob("*.json")):
            _sync(file)
        with (content / MANIFEST).open("w") as stream:
            json.dump(manifest, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        _sync(content)
        _install(content, folder, temporary / "old", expected)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _install(content: Path, folder: Path, old: Path, expected: dict[str, Any]) -> None:
    """Rename `content` to `folder`; without locks, a complete folder of another process is kept."""
    if folder.exists() and defect(folder, expected):
        folder.rename(old)
    try:
        content.rename(folder)
    except OSError:
        if defect(folder, expected):
            raise


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of `folder`, a file beside it; yields False if the file system does not support locks."""
    file = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(file)
    with contextlib.suppress(OSError, NotImplementedError):
        lock.acquire()  # without it, two processes may do the same work twice, with the same result
    try:
        yield lock.is_locked
    finally:
        if lock.is_locked:
            file.unlink(missing_ok=True)  # while the lock is held; a waiting process then opens a new file
            lock.release()


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders of killed processes; requires the lock."""
    for leftover in folder.parent.glob(f"{_prefix(folder)}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.tmp-"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
