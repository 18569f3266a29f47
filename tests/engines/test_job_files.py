"""The files of jobs, on folders that others delete from or that cannot be written any more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kdbench.engines.driver import Driver
from kdbench.engines.job_files import JobFiles
from kdbench.grid.plan import Plan
from kdbench.train.events import PhaseEvent, to_line
from tests.helpers.engines import execute, interpreter


def test_a_job_that_is_deleted_while_all_are_listed_is_left_out(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "there.json").touch()
    (jobs / "gone.json").symlink_to(jobs / "deleted")  # listed, and not there
    assert [files.name for files in JobFiles.all(tmp_path)] == ["there"]
    assert not JobFiles(tmp_path, "gone").is_settled()


def test_events_that_cannot_be_read_now_are_read_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = JobFiles(tmp_path, "a")
    files.events.parent.mkdir()
    files.events.write_text(to_line(PhaseEvent(text="measuring")) + "\n")
    with monkeypatch.context() as patch:

        def stale(*_: Any) -> None:
            raise OSError(116, "Stale file handle")

        patch.setattr(Path, "open", stale)
        assert files.new_events() == []
    assert files.new_events() == [PhaseEvent(text="measuring")]


def test_a_command_ends_though_its_folder_cannot_be_written_any_more(
    plan: Plan, engine: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, monkeypatch, "exit 7")
    unlink = os.unlink

    def read_only(path: Any, *rest: Any, **more: Any) -> None:
        if "/jobs/" in str(path) and str(path).endswith("l"):
            raise OSError(30, "Read-only file system")
        unlink(path, *rest, **more)

    monkeypatch.setattr(os, "unlink", read_only)
    assert [row.status for row in execute(engine, Plan((((plan.runs[0],),),), ()))] == ["failed"]
