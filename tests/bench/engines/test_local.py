"""The local engine: what becomes of runs whose process dies, hangs or never starts."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.engines.local import LocalEngine
from bench.errors import StoreError
from bench.grid import Plan
from bench.rows import Row
from bench.run import Job
from bench.specs import load_table
from tests.bench.builders import make_row


@pytest.fixture
def rows() -> list[Row]:
    """A teacher's, a plain student's and a distilled student's row, as their runs would leave them."""
    table = load_table("dist/coco")
    pair = table.pairs[0]
    none, dist = (make_row(table, pair, entry, "mini") for entry in table.methods[:2])
    assert dist.run.teacher is not None
    teacher = none.model_copy(update={"run": dist.run.teacher, "id": dist.run.teacher.id})
    return [teacher, none, dist]


@pytest.fixture
def plan(rows: list[Row]) -> Plan:
    teacher, none, dist = (row.run for row in rows)
    return Plan(((((teacher,)),), ((none, dist),)), ())


@pytest.fixture
def engine(tmp_path: Path) -> LocalEngine:
    return LocalEngine(Job(runs=(), data_root=tmp_path, results=tmp_path / "runs"), ["cpu"])


def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let `script` (sh) stand in for every job's process."""
    file = tmp_path / "interpreter"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(file))


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ("kill -9 $$", "out-of-memory", "--cohort 1"),
        ("exit 7", "failed", "code 7"),
        ('echo \'{"event": "error", "status": "failed", "reason": "teacher is off its record"}\'; exit 1', "failed",
         "off its record"),
    ],
)  # fmt: skip
def test_a_job_that_dies_leaves_a_row_for_every_run_and_skips_its_students(
    script: str, status: str, words: str, engine: LocalEngine, plan: Plan, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    interpreter(tmp_path, monkeypatch, script)
    teacher, none, dist = engine.execute(plan)
    assert (teacher.status, none.status) == (status, status)
    assert words in teacher.reason
    assert dist.status == "skipped"
    assert "its teacher retinanet_mini_teacher ended as" in dist.reason


def test_a_job_that_hangs_ends_as_timeout(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: LocalEngine
) -> None:
    interpreter(tmp_path, monkeypatch, "exec sleep 60")
    engine.timeout = 0.3
    teacher, none, dist = engine.execute(plan)
    assert (teacher.status, none.status, dist.status) == ("timeout", "timeout", "skipped")
    assert "goes on from its last epoch" in teacher.reason


def test_finished_runs_are_not_started_again_and_failed_ones_are(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: LocalEngine
) -> None:
    teacher, none, dist = rows
    engine.store.write(teacher)
    engine.store.write(none.model_copy(update={"status": "diverged", "metrics": None, "reason": "loss is nan"}))
    engine.store.write(dist.model_copy(update={"status": "failed", "metrics": None, "reason": "of yesterday"}))
    interpreter(tmp_path, monkeypatch, f'cat "$3" >> {tmp_path}/jobs; exit 7')
    found = engine.execute(plan)
    assert [row.status for row in found] == ["done", "diverged", "failed"]
    assert found[2].reason != "of yesterday"
    job = Job.model_validate_json((tmp_path / "jobs").read_bytes())
    assert [run.id for run in job.runs] == [dist.id]


def test_a_results_folder_that_cannot_be_written_is_refused_before_any_work(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, monkeypatch, f"touch {tmp_path}/started")
    (tmp_path / "file").write_text("in the way")
    engine = LocalEngine(Job(runs=(), data_root=tmp_path, results=tmp_path / "file" / "runs"), ["cpu"])
    with pytest.raises(StoreError, match="--results"):
        engine.execute(plan)
    assert not (tmp_path / "started").exists()


def test_two_commands_in_one_folder_are_refused(plan: Plan, engine: LocalEngine) -> None:
    other = LocalEngine(engine.job, ["cpu"])
    with engine._locked(), pytest.raises(StoreError, match="in use by another kdbench run"):
        other.execute(plan)


def test_a_file_in_place_of_a_row_is_never_deleted(plan: Plan, engine: LocalEngine) -> None:
    file = engine.store.row_file(plan.runs[1].id)
    file.parent.mkdir(parents=True)
    file.write_text('{"schema_version": 99}')
    with pytest.raises(StoreError, match="move it away"):
        engine.execute(plan)
    assert file.read_text() == '{"schema_version": 99}'


def test_lines_that_are_no_events_go_to_the_log(
    plan: Plan, engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, monkeypatch, 'echo libfoo: warning; echo \'{"event": "st\'; exit 7')
    rows = engine.execute(plan)
    assert [row.status for row in rows] == ["failed", "failed", "skipped"]
    logs = "".join(file.read_text() for file in (engine.job.results / "jobs").glob("*.log"))
    assert "libfoo: warning" in logs


def test_rows_that_cannot_be_written_do_not_stop_the_other_jobs(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: LocalEngine, capsys: Any
) -> None:
    interpreter(tmp_path, monkeypatch, "exit 7")

    def full(*_: object) -> None:
        raise StoreError("cannot write row.json: No space left on device; free some space")

    monkeypatch.setattr(engine.store, "write", full)
    assert engine.execute(plan) == []
    printed = capsys.readouterr().out
    assert printed.count("No space left on device") == 3
