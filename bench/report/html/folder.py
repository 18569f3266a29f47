"""The folder of a report: which one may be written, and removal of files that only an earlier report needed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import StoreError
from ...records.store import write_atomically

GENERATOR = "kdbench report"
"""By which a page of an earlier build is known."""

INDEX, FIGURES = "index.html", "figures.html"

FILES = Path("data/files.txt")
"""What a report consists of, beside its pages: one file a line."""

OWN = re.compile(r"(?:assets|data)(?:/\w[\w.+-]*)+")
"""Files that a report may remove."""

OF_HOSTS = {".git", ".nojekyll", "CNAME"}
"""What a host of pages keeps in the folder that it shows."""


def check_folder(out: Path, option: str = "--out") -> None:
    """Refuse a folder that is not the report's.

    Raises:
        StoreError: it is a file, or has a page that another program wrote.
    """
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out}: is a file; give a folder for the report with {option}")
    for name in (INDEX, FIGURES):
        if (out / name).is_file() and not _is_ours(out / name):
            raise StoreError(f"{out / name}: was not written by kdbench report; give another folder with {option}")


def check_publication(out: Path) -> None:
    """Refuse a folder that has anything but an earlier report.

    Raises:
        StoreError: it is a file, or has other files.
    """
    check_folder(out, "--publish")
    others = sorted(path.name for path in out.iterdir() if path.name not in OF_HOSTS) if out.is_dir() else []
    if others and not (out / INDEX).is_file() and not (out / FILES).is_file():
        raise StoreError(f"{out}: has {others[0]} and no earlier report; give an empty folder with --publish")


def _is_ours(page: Path) -> bool:
    return GENERATOR.encode() in page.read_bytes()[:4096]


def listed(out: Path) -> set[str]:
    """The files of the report that is in the folder; none where it has no list."""
    try:
        lines = (out / FILES).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{out / FILES}: cannot be read: {error}") from error
    return {line for line in lines if OWN.fullmatch(line)}


def list_files(out: Path, names: set[str]) -> None:
    """Write the list of a report's files.

    Raises:
        StoreError: the folder cannot be written.
    """
    write_atomically(out / FILES, "".join(f"{name}\n" for name in sorted(names)).encode())


def remove_files(out: Path, names: Iterable[str]) -> None:
    """Remove files of an earlier report; those that are gone already are left.

    Raises:
        StoreError: a file cannot be removed.
    """
    for name in sorted(names):
        try:
            (out / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{out / name}: cannot be removed: {error.strerror}") from error
