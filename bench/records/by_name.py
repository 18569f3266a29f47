"""Links to the folders of runs under readable names: `by-name/<networks>-<method>-seed<n>-<hash>` -> `../<id>`.

For people alone: nothing is read through them, and the hash in a name is that of the run, so that a link is right
wherever the folder of runs is moved or copied to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

FOLDER = "by-name"
SHORT = 8  # digits of a run's hash, as in `kdbench runs`
LONGEST = 150  # characters of a name; file systems allow 255 bytes


def link_name(name: str, run_id: str) -> str:
    """The name of a run's link: letters, digits and `+ , - . = _` of what `kdbench run` prints, and the run's hash."""
    words = re.sub(r"[^\w+,.=-]+", "-", name.replace(" -> ", "-").replace("seed ", "seed"), flags=re.ASCII)
    return f"{words.strip('-.')[:LONGEST]}-{run_id[:SHORT]}"


def link_runs(results: Path, names: Mapping[str, str]) -> None:
    """Link the folders of runs that are there and have no link yet; links to folders that are gone are removed.

    Several processes may do so at once. Without runs nothing is created.

    Args:
        results: folder of runs.
        names: of runs, by id.

    Raises:
        OSError: the folder cannot be written, or its file system has no links.
    """
    folder = results / FOLDER
    if not names and not folder.is_dir():
        return
    folder.mkdir(exist_ok=True)
    linked = {link.rpartition("-")[2] for link in os.listdir(folder) if not _remove_broken(folder / link)}
    for run_id, name in names.items():
        if run_id[:SHORT] not in linked and (results / run_id).is_dir():
            try:
                (folder / link_name(name, run_id)).symlink_to(Path("..", run_id), target_is_directory=True)
            except FileExistsError:
                continue  # of another process


def _remove_broken(link: Path) -> bool:
    broken = link.is_symlink() and not link.exists()
    if broken:
        link.unlink(missing_ok=True)
    return broken
