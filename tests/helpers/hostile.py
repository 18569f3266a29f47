"""Inputs that are wrong on purpose, through the command line: each ends at once, in one error that names the fault."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.helpers.command import kdbench

EXPLAIN = ("--scale", "mini", "--explain")
DEEP = "[" * 100_000
DIGITS = "9" * 5000

Make = Callable[[Path], Any]
"""Makes an input in an empty folder; what it returns is given to the command."""


def command(folder: Path, embedded: Path, *words: str) -> CompletedProcess[str]:
    return kdbench(*words, folder=folder, environment={"KDBENCH_DATA": str(embedded)})


def assert_refused(done: CompletedProcess[str], *names: str) -> None:
    """One error, in printable text, that holds each of `names`; nothing else went wrong."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr + done.stdout, done.stderr
    assert len(done.stderr) < 3000
    assert all(unicodedata.category(char) not in ("Cc", "Cs") for char in done.stderr if char not in "\n\t")
    for name in names:
        assert name in done.stderr, f"{name!r} is not in {done.stderr!r}"


SPECIAL: dict[str, Make] = {
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
}
