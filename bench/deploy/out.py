"""Folders that commands write into."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import SpecError


def check_out(folder: Path) -> None:
    """Refuse a folder that cannot be made.

    Raises:
        SpecError: it, or one above it, is a file or cannot be written.
    """
    for each in (folder, *folder.parents):
        if each.exists():
            if not each.is_dir():
                raise SpecError(f"--out {folder}: {each} is a file; give a folder")
            if not os.access(each, os.W_OK | os.X_OK):
                raise SpecError(f"--out {folder}: {each} is read-only; make it writable, or give another folder")
            return


def check_free(folder: Path, names: Iterable[str], description: str) -> None:
    """Refuse a folder with files of another origin that would be replaced.

    Args:
        folder: that is written into.
        names: of the files that may be written.
        description: the file by which a folder of ours is known.

    Raises:
        SpecError: names one of the files.
    """
    if (folder / description).exists():
        return
    for name in sorted(names):
        if os.path.lexists(folder / name):
            raise SpecError(
                f"--out {folder}: would replace {folder / name}, which kdbench did not write; give another folder"
            )
