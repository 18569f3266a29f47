"""The driver of every engine: what it makes of what jobs report, late, twice or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kdbench.engines import driver as module
from kdbench.engines.base import End, Engine, Handle, Resources
from kdbench.engines.driver import Driver
from kdbench.grid.plan import Plan
from kdbench.records.leases import Holder, Leases
from kdbench.records.row import Row
from kdbench.train.claim import row_event
from kdbench.train.events import Event, HeldEvent
from kdbench.train.job import Job
from tests.helpers.engines import execute, local


class Scripted(Engine):
    """Each job reports what a function of its number, from 0, says, at the next poll."""

    def __init__(self, says: Callable[[int], Sequence[Event | End]], slots: Sequence[str] = ("cpu",)) -> None:
        self.says, self.slots = says, slots
        self.jobs: list[list[str]] = []
        self.news: list[tuple[Handle, Event | End]] = []
        self.cancelled: list[Handle] = []

    def submit(self, job: Job, resources: Resources) -> Handle:
        handle = str(len(self.jobs))
        self.jobs.append([run.id for run in job.runs])
        self.news += [(handle, each) for each in self.says(int(handle))]
        return handle

    def poll(self, seconds: float) -> list[tuple[Handle, Event | End]]:
        news, self.news = self.news, []
        return news

    def cancel(self, handle: Handle) -> None:
        self.cancelled.append(handle)
        self.news.append((handle, End("cancelled", "")))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)


def driver(tmp_path: Path, engine: Engine) -> Driver:
    made = local(tmp_path / "runs")
    made.engine = engine
    return made


def unfinished(row: Row, reason: str) -> Row:
    return row.model_copy(update={"status": "failed", "metrics": None, "reason": reason})


def another(row: Row) -> Row:
    """That of the same run with another method, without a teacher."""
    run = row.run.model_copy(update={"method": "other", "teacher": None})
    return row.model_copy(update={"run": run, "id": run.id, "teacher": None})


def test_a_job_that_starts_again_and_tells_of_a_row_again_is_counted_once(
    plan: Plan, rows: list[Row], tmp_path: Path, capsys: Any
) -> None:
    none, other = rows[1], another(rows[1])

    def says(_: int) -> list[Event | End]:
        for row in (none, other):
            made.store.write(row)
        return [row_event(none), row_event(none), row_event(other), End("failed", "left no row")]

    made = driver(tmp_path, Scripted(says))
    assert len(execute(made, Plan((((none.run, other.run),),), ()))) == 2
    printed = capsys.readouterr().out
    assert printed.count("[1/2]") == printed.count("[2/2]") == 1 and "[3/2]" not in printed


def test_without_any_device_left_rows_of_other_commands_stay_and_their_runs_are_waited_for(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, none, _ = rows
    meanwhile = another(none)
    other = Leases(tmp_path / "runs")
    assert other.take(none.id) is None
    looked: list[str] = []
    holder = Leases.holder

    def look(self: Leases, run_id: str) -> Holder | None:
        looked.append(run_id)
        if looked.count(none.id) == 3:
            made.store.write(none)
            other.release([none.id])
        return holder(self, run_id)

    monkeypatch.setattr(Leases, "holder", look)

    def says(_: int) -> list[Event | End]:
        made.store.write(meanwhile)  # by another command, while this one waits for its device
        return [End("failed", "code 7", broken="it fell off the bus")]

    made = driver(tmp_path, Scripted(says, ["cuda:0"]))
    found = execute(made, Plan((((none.run,), (teacher.run,), (meanwhile.run,)),), ()))
    assert {row.id: row.status for row in found} == {none.id: "done", teacher.id: "failed", meanwhile.id: "done"}


def test_a_run_that_another_process_has_taken_over_is_not_also_tried_on_another_device(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs have failed before; one is held now, and the device of the other breaks."""
    none, other = rows[1], another(rows[1])
    held, own = none.run, other.run

    def says(number: int) -> list[Event | End]:
        if number:
            return [End("failed", "of the second device")]
        return [HeldEvent(run=held.id, holder="another"), End("failed", "x", retry=True, broken="it fell off the bus")]

    engine = Scripted(says, ["cuda:0", "cuda:1"])
    made = driver(tmp_path, engine)
    for row in (none, other):
        made.store.write(unfinished(row, "of yesterday"))
    execute(made, Plan((((held, own),),), ()))
    assert all(len(job) == len(set(job)) for job in engine.jobs)
    assert sorted(run for job in engine.jobs[1:] for run in job) == sorted([held.id, own.id])


def test_a_stop_while_what_has_ended_is_recorded_loses_no_end(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that has ended for the engine is not cancelled, nor waited for."""
    teacher, none, _ = rows
    engine = Scripted(lambda _: [End("failed", "code 7")], ["cuda:0", "cuda:1"])
    made = driver(tmp_path, engine)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(made, "_finish", stop)
    with pytest.raises(KeyboardInterrupt):
        execute(made, Plan((((teacher.run,), (none.run,)),), ()))
    assert len(engine.jobs) == 2 and not engine.cancelled and not made.running


def test_runs_that_others_hold_again_and_again_are_not_given_up_for_it(
    plan: Plan, rows: list[Row], tmp_path: Path
) -> None:
    none = rows[1]

    def says(number: int) -> list[Event | End]:
        if number < 5:
            return [HeldEvent(run=none.id, holder="another"), End("failed", "left no row")]
        if number == 5:
            return [End("node-failure", "its node has failed", retry=True)]
        made.store.write(none)
        return [row_event(none), End("failed", "left no row")]

    made = driver(tmp_path, Scripted(says))
    assert [row.status for row in execute(made, Plan((((none.run,),),), ()))] == ["done"]


def test_the_last_attempt_of_a_run_is_alone(plan: Plan, rows: list[Row], tmp_path: Path) -> None:
    """One of a cohort leaves its device unusable again and again; the others end well."""
    bad, good = rows[1], another(rows[1])
    engine = Scripted(lambda _: [])

    def says(number: int) -> list[Event | End]:
        if bad.id in engine.jobs[number]:
            return [End("failed", "CUDA error: device-side assert triggered", retry=True)]
        made.store.write(good)
        return [row_event(good), End("failed", "left no row")]

    engine.says = says
    made = driver(tmp_path, engine)
    found = execute(made, Plan((((bad.run, good.run),),), ()))
    assert engine.jobs[:2] == [[bad.id, good.id]] * 2 and sorted(engine.jobs[2:]) == sorted([[bad.id], [good.id]])
    assert {row.id: row.status for row in found} == {bad.id: "failed", good.id: "done"}
    assert "3 times without getting further" in next(row.reason for row in found if row.id == bad.id)


def test_a_row_that_was_reported_is_waited_for_though_an_earlier_one_is_still_seen(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system shows the teacher's failure of yesterday for a while; its students are not skipped."""
    teacher, none, dist = rows
    engine = Scripted(lambda number: [row_event(teacher), End("failed", "left no row")] if number == 0 else reported())
    made = driver(tmp_path, engine)
    made.store.write(unfinished(teacher, "of yesterday"))
    engine.patience = 20.0
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            made.store.write(teacher)

    def reported() -> list[Event | End]:
        for row in (none, dist):
            made.store.write(row)
        return [row_event(none), row_event(dist), End("failed", "left no row")]

    monkeypatch.setattr(module.time, "sleep", sleep)
    assert [row.status for row in execute(made, plan)] == ["done", "done", "done"]


def finishes(leases: Leases, made: Driver, row: Row, looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some looks at leases, another process leaves a row and its lease."""
    holder, looked = Leases.holder, []

    def look(self: Leases, run_id: str) -> Holder | None:
        looked.append(run_id)
        if len(looked) == looks:
            made.store.write(row)
            leases.release([row.id])
        return holder(self, run_id)

    monkeypatch.setattr(Leases, "holder", look)


def test_a_run_that_others_have_taken_over_from_a_lost_job_is_not_recorded_as_failed(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    none = rows[1]
    other = Leases(tmp_path / "runs")

    def says(_: int) -> list[Event | End]:
        assert other.take(none.id) is None
        return [End("node-failure", "its node has failed")]

    made = driver(tmp_path, Scripted(says))
    finishes(other, made, none, 4, monkeypatch)
    assert [row.status for row in execute(made, Plan((((none.run,),),), ()))] == ["done"]
    printed = capsys.readouterr().out
    assert "its node has failed; process" in printed and printed.count("[1/1]") == 1


def test_a_failure_is_recorded_once_the_lease_of_its_machine_is_stale(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = rows[1]
    lost = Leases(tmp_path / "runs")

    def says(_: int) -> list[Event | End]:
        assert lost.take(none.id) is None
        return [End("node-failure", "its node has failed")]

    engine = Scripted(says)
    made = driver(tmp_path, engine)
    monkeypatch.setattr(module, "POLL", 0.01)
    looks = iter([False] * 5 + [True] * 99)
    monkeypatch.setattr(Leases, "_is_stale", lambda *_: next(looks))
    (row,) = execute(made, Plan((((none.run,),),), ()))
    assert (row.status, row.reason) == ("node-failure", "its node has failed") and len(engine.jobs) == 1
    assert not list((tmp_path / "runs").glob("*/lease.*"))


def test_a_row_that_others_write_just_before_a_failure_is_recorded_stays(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = rows[1]
    made, take = driver(tmp_path, Scripted(lambda _: [End("failed", "code 7")])), Leases.take

    def written_before(self: Leases, run_id: str) -> Holder | None:
        made.store.write(none)
        return take(self, run_id)

    monkeypatch.setattr(Leases, "take", written_before)
    assert [row.status for row in execute(made, Plan((((none.run,),),), ()))] == ["done"]


def test_a_teacher_without_any_row_is_waited_for_once(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dist = rows[2]
    students = [dist.run.model_copy(update={"seed": seed}) for seed in (1, 2, 3)]
    engine = Scripted(lambda _: [])
    engine.patience = 2.0
    made, now = driver(tmp_path, engine), [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    found = execute(made, Plan((tuple((run,) for run in students),), ()))
    assert [row.status for row in found] == ["skipped"] * 3 and "has no result" in found[0].reason
    assert now == [2.0] and not engine.jobs


def test_a_row_of_another_version_that_comes_meanwhile_stays_and_is_named(
    plan: Plan, rows: list[Row], tmp_path: Path, capsys: Any
) -> None:
    teacher = rows[0]

    def says(_: int) -> list[Event | End]:
        made.store.row_file(teacher.id).parent.mkdir(parents=True)
        made.store.row_file(teacher.id).write_text('{"schema_version": 99}')
        return [End("failed", "code 7")]

    made = driver(tmp_path, Scripted(says, ["cuda:0"]))
    found = execute(made, Plan((((teacher.run,),), ((plan.runs[2],),)), ()))
    assert [row.status for row in found] == ["skipped"] and "schema_version: 99" in found[0].reason
    assert "code 7; and" in capsys.readouterr().out
    assert made.store.row_file(teacher.id).read_text() == '{"schema_version": 99}'
    assert not list((tmp_path / "runs").glob("*/row.damaged.json"))


def test_runs_that_were_out_of_memory_in_a_cohort_are_tried_again_alone(
    plan: Plan, rows: list[Row], tmp_path: Path, capsys: Any
) -> None:
    """One that says so, and one whose process the kernel kills; each is believed when it was alone."""
    none = rows[1]
    short = unfinished(none, "no room").model_copy(update={"status": "out-of-memory"})
    first, second = none, another(none)
    killed = End("out-of-memory", "the kernel killed it")

    def says(number: int) -> list[Event | End]:
        if number == 0:  # together
            made.store.write(short)
            return [row_event(short), killed]
        row = first if made.engine.jobs[number] == [first.id] else None  # type: ignore[attr-defined]
        if row is None:
            return [killed]
        made.store.write(row)
        return [row_event(row), End("failed", "left no row")]

    made = driver(tmp_path, Scripted(says))
    found = {row.id: row for row in execute(made, Plan((((first.run, second.run),),), ()))}
    assert sorted(made.engine.jobs[1:]) == sorted([[first.id], [second.id]])  # type: ignore[attr-defined]
    assert found[first.id].status == "done" and found[second.id].status == "out-of-memory"
    printed = capsys.readouterr().out
    assert "out-of-memory in a cohort: 2 runs tried again alone" in printed and "[2/2]" in printed
    assert "[3/2]" not in printed
