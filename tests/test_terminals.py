"""The command on terminals that cannot print everything, and when it is stopped."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench import cli
from tests.helpers.command import jobs_environment


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(name, marks=pytest.mark.integration) for name in ("latin-1", "cp1252"))]
)
def test_a_terminal_that_is_not_utf8_gets_the_table_and_the_files(encoding: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kdbench", "table", "dist/cifar100", "--scale", "full"]
    environment = os.environ | jobs_environment() | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    text = done.stdout.decode(encoding)
    assert "dist/cifar100: DIST on CIFAR-100" in text
    written = {path.suffix: path.read_text() for path in (tmp_path / "results" / "tables").iterdir()}
    assert set(written) == {".csv", ".md", ".tex"}
    assert "±" in written[".md"], "files are in UTF-8 whatever the terminal is"


def test_a_stopped_command_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdbench.launch.planning.make_plans", stop)
    monkeypatch.setattr(sys, "argv", ["kdbench", "run", "dist/cifar100", "--results", str(tmp_path)])
    error = io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == cli.INTERRUPTED
    assert "the same command goes on" in error.getvalue()
