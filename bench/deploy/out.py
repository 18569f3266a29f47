"""Folders that commands write into."""

from __future__ import annotations

from pathlib import Path

from ..errors import SpecError


def check_out(folder: Path) -> None:
    """Refuse a folder that cannot be made.

    Raises:
        SpecError: it, or one above it, is a file.
    """
    for each in (folder, *folder.parents):
        if each.exists():
            if not each.is_dir():
                raise SpecError(f"--out {folder}: {each} is a file; give a folder")
            return
