"""The environment that a row records."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from kdbench.records import environment


def test_a_library_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    known = environment.version

    def version(name: str) -> str:
        if name == "pycocotools":
            raise PackageNotFoundError(name)
        return known(name)

    whole = environment.describe(torch.device("cpu")).libraries
    monkeypatch.setattr(environment, "version", version)
    assert environment.describe(torch.device("cpu")).libraries.keys() == whole.keys() - {"pycocotools"}
    assert {"torch", "pycocotools"} <= whole.keys()


def test_the_commit_ends_in_a_plus_where_tracked_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    def commit() -> str:
        return environment.commit.__wrapped__()

    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "unknown"
    tracked = tmp_path / "tracked"
    tracked.write_text("before")
    git("init", "-q")
    git("add", "tracked")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "--short=12", "HEAD").strip()
    (tmp_path / "untracked").write_text("new")
    assert commit() == head
    tracked.write_text("after")
    assert commit() == f"{head}+"
