"""`kdbench` run in this process: what a command prints and how it ends, without the seconds of a new interpreter."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kdbench import cli

ROOT = Path(__file__).parents[2]


def kdbench(*words: str, folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The command with these words in `folder`, as a process of its own would print it and exit.

    Args:
        words: after `kdbench`.
        folder: the working folder.
        environment: variables laid over those of this process.
    """
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["kdbench", *words])
        for name, value in environment.items():
            patch.setitem(os.environ, name, value)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main()
        except SystemExit as stopped:
            code = stopped.code
        finally:
            signal.signal(signal.SIGTERM, handler)
    assert code is None or isinstance(code, int), code
    return subprocess.CompletedProcess(["kdbench", *words], code or 0, out.getvalue(), err.getvalue())


def jobs_environment() -> dict[str, str]:
    """For processes that a test starts: this checkout, and one thread, as small networks gain nothing from a second."""
    return {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
