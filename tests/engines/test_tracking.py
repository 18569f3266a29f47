"""Runs are followed by trackers: what these are told, and that a broken one costs no run anything."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kdbench.engines import tracking
from kdbench.engines.progress import Display, JobDisplay
from kdbench.engines.tracking import Tracking
from kdbench.grid.plan import Plan
from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.spec.run import Run, variants
from kdbench.trackers.base import Settings, Tracker, hyper_parameters, summary
from kdbench.train.events import (
    EpochEvent,
    Event,
    PhaseEvent,
    ResumedEvent,
    RowEvent,
    StepEvent,
    from_line,
    to_line,
)
from kdbench.train.journal import JOURNAL, Journal, kept_events
from tests.helpers.engines import execute, interpreter, local


class Recording(Tracker):
    """Keeps what it is told, by the name of the run."""

    told: ClassVar[dict[str, list[tuple[Any, ...]]]] = {}

    def start(self, run: Run, settings: Settings) -> None:
        self.calls = self.told.setdefault(settings.name, [])
        self.calls.append(("start", run.id, settings.resumed_at))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append(("step", step, dict(values)))

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("epoch", step, dict(metrics)))

    def finish(self, row: Row) -> None:
        self.calls.append(("finish", row.id, row.status))

    def close(self) -> None:
        self.calls.append(("close",))


class Failing(Recording):
    """Fails at its second step."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        if step > 10:
            raise OSError("the server is down")


@pytest.fixture(autouse=True)
def told() -> dict[str, list[tuple[Any, ...]]]:
    Recording.told.clear()
    return Recording.told


def step(number: int, *runs: Run, loss: float = 2.0) -> StepEvent:
    losses = {run.id: {"task": 1.0, "kd": loss} for run in runs}
    return StepEvent(epoch=1, step=number, steps=20, losses=losses, lr=0.1, images_per_second=50.0)


def done(run: Run) -> RowEvent:
    return RowEvent(run=run.id, status="done", reason="", metrics={})


def follow(tmp_path: Path, runs: list[Run], *events: Event, kinds: Any = (Recording,)) -> list[str]:
    """What is printed while trackers follow runs with these events."""
    warnings: list[str] = []
    followed = Tracking(kinds, Store(tmp_path), None)
    with followed.follow(runs, lambda run: run.method, warnings.append):
        for event in events:
            followed.update(event)
    return warnings


@pytest.mark.parametrize(
    "event",
    [
        StepEvent(epoch=1, step=2, steps=3, losses={"a": {"kd": 0.5}}, lr=0.1, images_per_second=9.0),
        EpochEvent(run="a", epoch=1, step=2, metrics={"top1": float("inf")}),
        PhaseEvent(text="preparing dist"),
    ],
    ids=lambda event: event.event,
)
def test_events_are_read_as_they_were_written(event: Event) -> None:
    assert from_line(to_line(event) + "\n") == event
    assert next(iter(json.loads(to_line(event)))) == "event"


@pytest.mark.parametrize(
    "line", ["", "libfoo: warning", '{"event": "st', '{"event": "step"}', '{"event": "other"}', "1"]
)
def test_lines_that_are_no_events_are_none(line: str) -> None:
    assert from_line(line) is None


def test_every_run_of_a_cohort_has_its_own_tracker(tmp_path: Path, rows: list[Row], told: Any) -> None:
    runs = [row.run.model_copy(update={"method": name}) for row, name in zip(rows, "abc", strict=True)]
    row = rows[2].model_copy(update={"run": runs[2], "id": runs[2].id})
    Store(tmp_path).write(row)
    evaluated = EpochEvent(run=runs[1].id, epoch=1, step=10, metrics={"ap": 30.0})
    events = [step(10, *runs), evaluated, step(20, runs[0], runs[2], loss=0.5), done(runs[2])]
    assert follow(tmp_path, runs, *events) == []
    first = {"loss/task": 1.0, "loss/kd": 2.0, "loss/total": 3.0, "lr": 0.1, "images_per_second": 50.0}
    first["data_wait"] = 0.0
    second = first | {"loss/kd": 0.5, "loss/total": 1.5}
    assert told["a"] == [("start", runs[0].id, None), ("step", 10, first), ("step", 20, second), ("close",)]
    assert told["b"] == [("start", runs[1].id, None), ("step", 10, first), ("epoch", 10, {"val/ap": 30.0}), ("close",)]
    assert row.metrics is not None
    last = {f"val/{name}": value for name, value in row.metrics.last.items()}
    assert told["c"][1:] == [
        ("step", 10, first),
        ("step", 20, second),
        ("epoch", row.steps, last),
        ("finish", row.id, "done"),
        ("close",),
    ]


def test_a_tracker_that_fails_is_one_warning_and_the_others_go_on(tmp_path: Path, rows: list[Row], told: Any) -> None:
    runs = [row.run.model_copy(update={"method": name}) for row, name in zip(rows, "abc", strict=True)]
    events = [step(10, *runs), step(20, *runs), step(30, *runs)]
    first, second = follow(tmp_path, runs, *events, kinds=(Failing, Recording))
    assert first == "WARNING: Failing has failed and follows a no longer: OSError: the server is down"
    assert second == "WARNING: Failing has failed for 3 runs; their results are kept"
    assert [call[1] for call in told["b"] if call[0] == "step"] == [10, 20, 30]


def test_a_resumed_run_says_from_where_and_a_second_attempt_starts_anew(
    tmp_path: Path, rows: list[Row], told: Any
) -> None:
    run = rows[0].run.model_copy(update={"method": "a"})
    failed = RowEvent(run=run.id, status="failed", reason="out of luck", metrics={})
    again = ResumedEvent(run=run.id, epoch=1, step=8)
    follow(tmp_path, [run], again, step(10, run), failed, step(10, run))
    assert [call for call in told["a"] if call[0] == "start"] == [("start", run.id, 8), ("start", run.id, None)]


def test_a_resumed_run_gets_the_points_that_a_killed_command_may_not_have_logged(
    tmp_path: Path, rows: list[Row], told: Any
) -> None:
    run, other = (row.run.model_copy(update={"method": name}) for row, name in zip(rows, "ab", strict=False))
    keep = Journal(Store(tmp_path), lambda _: None)
    evaluated = EpochEvent(run=run.id, epoch=1, step=20, metrics={"ap": 30.0})
    for event in (step(10, run, other), step(20, run, other), evaluated, step(30, run, other)):
        keep(event)
    file = tmp_path / run.id / JOURNAL
    file.write_bytes(file.read_bytes() + b'{"event": "step", "ep')  # the job was killed while it wrote
    passed_on: list[Event] = []
    keep = Journal(Store(tmp_path), passed_on.append)
    events = [ResumedEvent(run=run.id, epoch=1, step=20), step(30, run, other, loss=0.5)]
    for event in events:
        keep(event)
    assert passed_on == events
    follow(tmp_path, [run, other], *passed_on)
    assert [call[:2] for call in told["a"]] == [
        ("start", run.id),
        ("step", 10),
        ("step", 20),
        ("epoch", 20),
        ("step", 30),
        ("close",),
    ]
    assert told["a"][-2][2]["loss/kd"] == 0.5
    assert [call[1] for call in told["b"] if call[0] == "step"] == [30]  # it has no checkpoint and starts anew
    assert [event.step for event in kept_events(tmp_path / other.id, 99)] == [30]


def test_the_end_of_a_run_is_logged_by_the_next_command_where_the_first_one_died(
    plan: Plan, rows: list[Row], tmp_path: Path, told: Any
) -> None:
    """Its job has left points and row, and the command was killed before its tracker had them all."""
    results, run = tmp_path / "runs", rows[1].run
    for row in rows:
        Store(results).write(row)
    Journal(Store(results), lambda _: None)(step(10, run))
    last = {f"val/{name}": value for name, value in rows[1].metrics.last.items()}  # type: ignore[union-attr]
    finish = [("epoch", rows[1].steps, last), ("finish", run.id, "done"), ("close",)]
    for _ in range(2):  # a third command has nothing left to do
        execute(local(results, trackers=(Recording,)), plan)
        (calls,) = told.values()
        assert [call[:2] for call in calls[:2]] == [("start", run.id), ("step", 10)] and calls[2:] == finish
    told.clear()
    assert [row.id for row in Tracking((Recording, Failing), Store(results), None).behind(plan.runs)] == [run.id]
    execute(local(results), plan)
    assert not told


def test_a_run_that_its_command_has_logged_to_its_end_is_not_logged_again(
    rows: list[Row], tmp_path: Path, told: Any
) -> None:
    run = rows[1].run
    Journal(Store(tmp_path), lambda _: None)(step(10, run))
    Store(tmp_path).write(rows[1])
    tracking = Tracking((Recording,), Store(tmp_path), None)
    assert tracking.behind([run]) == [rows[1]]
    follow(tmp_path, [run], step(10, run), done(run))
    assert tracking.behind([run]) == []
    Store(tmp_path).write(rows[1].model_copy(update={"finished": "2030-01-01T00:00:00+00:00"}))  # trained again
    assert len(tracking.behind([run])) == 1


def test_a_run_that_failed_before_its_first_step_is_not_tracked(tmp_path: Path, rows: list[Row], told: Any) -> None:
    follow(tmp_path, [rows[0].run], RowEvent(run=rows[0].id, status="skipped", reason="no teacher", metrics={}))
    assert told == {}


def test_a_tracker_that_hangs_does_not_hold_up_the_command(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    released = threading.Event()

    class Hanging(Recording):
        def step(self, step: int, values: Mapping[str, float]) -> None:
            released.wait(60)

    (warning,) = follow(tmp_path, [rows[0].run], step(10, rows[0].run), kinds=(Hanging,))
    released.set()
    assert "have not finished" in warning


def test_the_engine_passes_events_on_and_closes_what_died(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    teacher = plan.runs[0]
    interpreter(tmp_path, monkeypatch, f"echo '{to_line(step(10, teacher))}' > $4; exit 7")
    engine = local(tmp_path / "runs", trackers=(Recording,))
    execute(engine, plan)
    calls = told[teacher.name_with("")]
    assert [call[0] for call in calls[:4]] == ["start", "step", "finish", "close"]
    assert calls[2] == ("finish", teacher.id, "failed")


def test_parameters_and_summary_are_flat_and_complete(rows: list[Row]) -> None:
    row = rows[2]
    values = hyper_parameters(row.run)
    assert values["run"] == row.id and values["method"] == row.run.method and values["seed"] == row.run.seed
    assert any(name.startswith("option.") for name in values)
    assert values["recipe.lr"] == row.run.recipe.lr and values["teacher"] == row.run.teacher_network
    assert row.cost is not None
    content = summary(row)
    assert content["run"] == row.id and content["status"] == "done" and content["cost/params"] == row.cost.params
    assert all(isinstance(value, int | float | str) for value in [*values.values(), *content.values()])


def variants_of(run: Run, count: int) -> list[Run]:
    return [run.model_copy(update={"method": "kd", "options": {"tau": float(tau)}}) for tau in range(1, count + 1)]


@pytest.mark.parametrize(("count", "words"), [(3, "loss kd:tau=1 1, kd:tau=2 2, kd:tau=3 3"), (5, "loss 1 to 5")])
def test_a_small_cohort_shows_every_total_and_a_large_one_their_range(
    count: int, words: str, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = variants_of(rows[2].run, count)
    shown = JobDisplay(Display(count, 0, variants(runs)), runs)
    losses = {run.id: {"task": 0.5, "kd": run.options["tau"] - 0.5} for run in runs}
    shown.update(StepEvent(epoch=1, step=10, steps=20, losses=losses, lr=0.1, images_per_second=50.0))
    assert f"step 10/20  epoch 1  {words}  {50 * count} images/s" in capsys.readouterr().out


def test_a_single_run_shows_every_term(rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    run = rows[2].run
    JobDisplay(Display(1, 0), [run]).update(step(10, run))
    assert "epoch 1  task 1 kd 2  50 images/s\n" in capsys.readouterr().out
    waiting = step(10, run).model_copy(update={"data_wait": 0.123})
    JobDisplay(Display(1, 0), [run]).update(waiting)
    assert "50 images/s  12% waiting for data\n" in capsys.readouterr().out


@pytest.mark.parametrize(("resumed", "at"), [([10], 10), ([], None)])
def test_a_job_that_is_started_again_under_way_is_another_attempt(
    resumed: list[int], at: int | None, tmp_path: Path, plan: Plan, told: dict[str, list[tuple[Any, ...]]]
) -> None:
    """Slurm starts a job of a lost node again; the points since its checkpoint are not logged twice by one tracker."""
    run = plan.runs[0]
    again = [ResumedEvent(run=run.id, epoch=0, step=step) for step in resumed]
    follow(tmp_path, [run], step(10, run), step(20, run), *again, step(20 if resumed else 10, run))
    calls = [call[:1] + call[2:] if call[0] == "start" else call[:2] for call in told[run.method]]
    last = ("step", 20 if resumed else 10)
    assert calls == [("start", None), ("step", 10), ("step", 20), ("close",), ("start", at), last, ("close",)]
