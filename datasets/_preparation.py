"""Prepared folders: written beside their place, sealed with a manifest, then renamed into it.

A folder counts as whole only if its manifest is the expected one and every file that the manifest counts is there in
its size, so a folder that was half written, by whatever accident, is written anew.
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

from ._images import files_in
from .base import DataError

MANIFEST = "fingerprint.json"

try:
    import fcntl
except ImportError:  # no such locks here: two processes may do the same work twice, the result is the same
    fcntl = None  # type: ignore[assignment]


def prepare(folder: Path, wanted: dict[str, Any], write: Callable[[Path], str]) -> tuple[str, ...]:
    """Make sure that `folder` is there and whole.

    Args:
        folder: where the data belongs.
        wanted: what the manifest must say, known before anything is written.
        write: fills an empty folder and returns the sha256 of its content, which is noted in the manifest.

    Returns:
        What was done, one line each; empty if the folder was whole.

    Raises:
        DataError: the disk is full, read-only or otherwise refuses; nothing half-written is left.
    """
    reason = what_is_missing(folder, wanted)
    if not reason:
        return ()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent) as alone:
            if not (reason := what_is_missing(folder, wanted)):
                return ()
            if alone:
                _remove_leftovers(folder)
            existed = folder.exists()
            _write_aside(folder, wanted, write)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); free some space or allow writing there, or "
            "choose another place with KDBENCH_DATA"
        ) from error
    return (f"{folder}: was not whole ({reason}) and has been written anew" if existed else f"{folder}: prepared",)


def what_is_missing(folder: Path, wanted: dict[str, Any]) -> str:
    """Why `folder` is not whole; empty if it is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return f"no readable {MANIFEST}"
    if not isinstance(manifest, dict) or {key: manifest.get(key) for key in wanted} != wanted:
        return f"{MANIFEST} is of another version"
    if manifest.get("files") != _inventory(folder):
        return "files are missing or have another size"
    return ""


def _inventory(folder: Path) -> dict[str, list[int]]:
    """Number of files and their bytes, for each folder, whatever it holds, and file directly inside."""
    inventory = {}
    for part in sorted(folder.iterdir()):
        if part.is_dir():
            sizes = [(part / name).stat().st_size for name in files_in(part)]
            inventory[part.name] = [len(sizes), sum(sizes)]
        elif part.is_file() and part.name != MANIFEST:
            inventory[part.name] = [1, part.stat().st_size]
    return inventory


def _write_aside(folder: Path, wanted: dict[str, Any], write: Callable[[Path], str]) -> None:
    aside = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
    try:
        content = aside / "new"
        content.mkdir()
        manifest = {**wanted, "content_sha256": write(content), "files": _inventory(content)}
        for file in sorted(content.rglob("*.json")):
            _sync(file)
        with (content / MANIFEST).open("w") as stream:
            json.dump(manifest, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        _sync(content)
        _install(content, folder, aside / "old", wanted)
        _sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _install(content: Path, folder: Path, old: Path, wanted: dict[str, Any]) -> None:
    """Rename into place; whoever comes second, where locks do not work, finds a whole folder and leaves it."""
    if folder.exists() and what_is_missing(folder, wanted):
        folder.rename(old)
    try:
        content.rename(folder)
    except OSError:
        if what_is_missing(folder, wanted):
            raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; gives False where the file system knows none."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        alone = False
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
                alone = True
        yield alone
    finally:
        os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left behind; only safe while alone."""
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
