"""Students of a teacher that was trained again: found, rerun with it, and kept where its weights are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdbench import methods
from kdbench.engines.driver import Driver
from kdbench.grid.plan import Plan
from kdbench.launch.explain import _log_rerun
from kdbench.launch.schedule import Schedule, make_schedule, threads_of
from kdbench.records.row import Row
from kdbench.records.row_file import encode
from kdbench.spec.run import Run
from tests.helpers.engines import Parts, execute, interpreter

STALE = "  stale: 1 run whose teacher was trained again since, or is now; done again (--keep-stale keeps the rows)"


def retrained(teacher: Row) -> Row:
    """The row of the same run with other weights."""
    assert teacher.student is not None
    return teacher.model_copy(update={"student": teacher.student.model_copy(update={"sha256": "ef" * 32})})


def schedule(plan: Plan, engine: Driver, **options: Any) -> Schedule:
    return make_schedule(plan, engine.store, Parts(), threads_of(plan, ["cpu"]), **options)


def to_do(made: Schedule) -> list[Run]:
    return [run for job in made.jobs for run in job.runs]


def said(made: Schedule) -> list[str]:
    lines: list[str] = []
    _log_rerun(made, lines.append)
    return [line for line in lines if "stale" in line]


def test_students_of_a_teacher_that_was_trained_again_are_done_again(
    plan: Plan, rows: list[Row], engine: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, none, dist = rows
    for row in (retrained(teacher), none, dist):
        engine.store.write(row)
    made = schedule(plan, engine)
    assert made.of_old_teachers == (dist,) and to_do(made) == [dist.run] and said(made) == [STALE]
    interpreter(tmp_path, monkeypatch, "exit 7")
    assert [row.status for row in execute(engine, plan)] == ["done", "done", "failed"]


def test_the_teachers_of_a_plan_without_them_count_too(plan: Plan, rows: list[Row], engine: Driver) -> None:
    """Runs of equal cost are planned when their teachers are finished."""
    teacher, _, dist = rows
    students = Plan((((dist.run,),),), ())
    for row in (teacher, dist):
        engine.store.write(row)
    assert not schedule(students, engine).jobs
    engine.store.write(retrained(teacher))
    made = schedule(students, engine)
    assert made.of_old_teachers == (dist,) and to_do(made) == [dist.run] and said(made) == [STALE]


def test_the_rows_can_be_kept(plan: Plan, rows: list[Row], engine: Driver) -> None:
    teacher, none, dist = rows
    for row in (retrained(teacher), none, dist):
        engine.store.write(row)
    made = schedule(plan, engine, keep_stale=True)
    assert not made.jobs and not made.of_old_teachers
    assert said(made) == ["  stale and kept: 1 row whose teacher was trained again since"]


def test_students_of_the_same_weights_or_of_a_file_are_kept(plan: Plan, rows: list[Row], engine: Driver) -> None:
    teacher, none, dist = rows
    for row in (teacher, none, dist):
        engine.store.write(row)
    assert not schedule(plan, engine).jobs
    run = dist.run.model_copy(update={"teacher_file": "ab" * 32})
    given = dist.model_copy(update={"run": run, "id": run.id})
    engine.store.write(retrained(teacher))
    engine.store.write(given)
    made = schedule(Plan((((run,),),), ()), engine)
    assert not made.jobs and said(made) == []


@pytest.mark.parametrize("same", [True, False])
def test_students_wait_for_a_teacher_that_is_stale_and_stay_if_its_weights_do(
    same: bool, plan: Plan, rows: list[Row], engine: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, none, dist = rows
    current = teacher.model_copy(update={"code": methods.code("none")})
    for row in (teacher.model_copy(update={"code": "0" * 16}), none, dist):
        engine.store.write(row)
    made = schedule(plan, engine)
    assert [row.id for row in made.stale] == [teacher.id] and [row.id for row in made.of_old_teachers] == [dist.id]
    assert to_do(made) == [teacher.run, dist.run] and STALE in said(made)
    (tmp_path / "new.json").write_bytes(encode(current if same else retrained(current)))
    target = engine.store.row_file(teacher.id)
    script = f"echo >> {tmp_path}/jobs; cp {tmp_path}/new.json {target}.new; mv {target}.new {target}"
    interpreter(tmp_path, monkeypatch, script)
    statuses = [row.status for row in execute(engine, plan)]
    assert statuses == ["done", "done", "done" if same else "failed"]
    assert len((tmp_path / "jobs").read_text()) == (1 if same else 2)
