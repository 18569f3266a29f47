"""Classification runs that are killed: where they are saved, and that they end as if nothing had happened."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdbench.methods._granularity import Granularity
from kdbench.networks.base import Network
from kdbench.records import checkpoint as checkpoints
from kdbench.tasks.classification import ClassificationTask
from kdbench.train import checkpointing, preparation, result
from kdbench.train import loop as training
from kdbench.train.events import Event
from kdbench.train.job import execute
from kdbench.train.student import Student
from tests.helpers.pictures import EKD, STEPS, Pictures, counted, done, numbers, short, state_of
from tests.helpers.tensors import equal

pytestmark = pytest.mark.integration

STATEFUL = ("none", "mag+crd", "ad", "ekd", "fsp", "ft", "dkd")
"""Methods with a warm-up, a bank, an optimizer group, an earlier phase or a teacher of their own; and none."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


def quiet(event: Event) -> None:
    assert event.event != "error"


class Killed(BaseException):
    """As a signal: nothing in the harness may catch it."""


def kill_at(kind: str, name: str, number: int) -> Callable[[Event], None]:
    def kill(event: Event) -> None:
        if event.event == kind and getattr(event, name) == number:
            raise Killed

    return kill


def save_every_few_steps(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """But the last of an epoch only at its end."""
    monkeypatch.setattr(training, "READ_EVERY", steps)
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)


def test_a_killed_run_goes_on_from_where_it_was_saved_and_ends_bitwise_the_same(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_every_few_steps(monkeypatch, 2)
    prepared = counted(monkeypatch, Granularity)
    recipe = short(epochs=2, ema=0.5, decay_all=False, drop_last=False, batch_size=5)  # five steps an epoch
    runs = [pictures.run(method, recipe=recipe) for method in STATEFUL]
    runs += [pictures.run("ekd", recipe=recipe, options=options) for options in EKD]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    at_once = done(execute(pictures.job(whole, *runs), quiet))
    places = []
    # In the first epoch, between the savings of two students at its end, and in the second.
    for kill in (kill_at("step", "step", 4), kill_at("epoch", "epoch", 1), kill_at("step", "step", 10)):
        with pytest.raises(Killed):
            execute(pictures.job(parts, *runs), kill)
        places.append([checkpoints.read(parts / run.id / "checkpoint.pt")["steps"] for run in runs])
    assert places == [[2] * len(runs), [5] + [2] * (len(runs) - 1), [8] * len(runs)]
    events: list[Event] = []
    resumed = done(execute(pictures.job(parts, *runs), events.append))
    assert [(event.epoch, event.step) for event in events if event.event == "resumed"] == [(1, 8)] * len(runs)
    assert [event.step for event in events if event.event == "step"] == [10]
    assert len(prepared) == 2  # once in the whole run, once in its parts
    for run, one, other in zip(runs, at_once, resumed, strict=True):
        assert equal(state_of(whole, run), state_of(parts, run)), run.method
        assert numbers(one) == numbers(other), run.method
        if run.online_teacher:
            assert equal(state_of(whole, run, "teacher.pt"), state_of(parts, run, "teacher.pt")), run.method
        if run.method in ("fsp", "ft", "mag+crd"):
            assert one.cost and other.cost and other.cost.prepare_seconds > 0


def test_a_killed_run_with_views_or_a_head_ends_bitwise_the_same(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_every_few_steps(monkeypatch, 2)
    recipe = short(ema=0.5, drop_last=False, batch_size=5)
    runs = [pictures.run(method, recipe=recipe) for method in ("sskd", "mlkd", "simkd")]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    at_once = done(execute(pictures.job(whole, *runs), quiet))
    with pytest.raises(Killed):
        execute(pictures.job(parts, *runs), kill_at("step", "step", 4))
    assert [checkpoints.read(parts / run.id / "checkpoint.pt")["steps"] for run in runs] == [2] * len(runs)
    resumed = done(execute(pictures.job(parts, *runs), quiet))
    for run, one, other in zip(runs, at_once, resumed, strict=True):
        assert equal(state_of(whole, run), state_of(parts, run)), run.method
        assert numbers(one) == numbers(other), run.method


def test_students_saved_at_different_steps_meet_again(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_every_few_steps(monkeypatch, 1)
    runs = [pictures.run("kd"), pictures.run("dist")]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    at_once = done(execute(pictures.job(whole, *runs), quiet))
    save, saved = checkpointing.save, []

    def kill_at_the_fourth(student: Student) -> None:
        saved.append(student.run.method)
        if len(saved) == 4:
            raise Killed
        save(student)

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save", kill_at_the_fourth)
        with pytest.raises(Killed):
            execute(pictures.job(parts, *runs), quiet)
    assert saved == ["kd", "dist", "kd", "dist"]
    events: list[Event] = []
    resumed = done(execute(pictures.job(parts, *runs), events.append))
    assert [event.step for event in events if event.event == "resumed"] == [2, 1]
    steps = [(event.step, set(event.losses)) for event in events if event.event == "step"]
    assert steps == [(2, {runs[1].id}), (3, {run.id for run in runs})]
    assert [numbers(row) for row in at_once] == [numbers(row) for row in resumed]


def test_a_methods_earlier_phases_are_kept_once_they_are_over(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    initial_phase = preparation._initial_phase

    def counting(student: Student, teacher: Network) -> None:
        begun.append(student.run.method)
        initial_phase(student, teacher)

    monkeypatch.setattr(preparation, "_initial_phase", counting)
    prepared = counted(monkeypatch, Granularity)
    runs = [pictures.run("kd"), pictures.run("mag+kd"), pictures.run("fsp")]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    at_once = done(execute(pictures.job(whole, *runs), quiet))
    with pytest.raises(Killed):
        execute(pictures.job(parts, *runs), kill_at("step", "step", STEPS))
    events: list[Event] = []
    resumed = done(execute(pictures.job(parts, *runs), events.append))
    assert [event.run for event in events if event.event == "resumed"] == [run.id for run in runs[1:]]
    assert (begun, len(prepared)) == (["fsp"] * 2, 2)  # once in each folder
    assert [numbers(row) for row in at_once] == [numbers(row) for row in resumed]


def test_a_long_epoch_is_saved_within_and_its_time_counted_once(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(seconds=0.0, perf_counter=lambda: clock.seconds)
    batches, save, saved = ClassificationTask.batches, checkpointing.save, []

    def slow(self: Any, *given: Any, **named: Any) -> Any:
        for batch in batches(self, *given, **named):
            clock.seconds += 1
            yield batch

    def saving(student: Student) -> None:
        saved.append((student.steps, student.wall_seconds))
        save(student)
        clock.seconds += 4

    monkeypatch.setattr(ClassificationTask, "batches", slow)
    monkeypatch.setattr(checkpointing, "save", saving)
    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(training, "READ_EVERY", 1)
    monkeypatch.setattr(training, "SAVE_EVERY", 4.0)
    run = pictures.run(recipe=short(epochs=2, batch_size=3))  # eight steps an epoch
    with pytest.raises(Killed):
        execute(pictures.job(tmp_path, run), kill_at("step", "step", 10))
    assert saved == [(4, 4.0), (8, 12.0)]  # at the end of an epoch too, with the first saving's four seconds
    done(execute(pictures.job(tmp_path, run), quiet))
    assert saved[2:] == [(12, 16.0), (16, 24.0)]


def test_the_time_of_all_saving_is_in_the_rows(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(seconds=0.0, perf_counter=lambda: clock.seconds)
    batches = ClassificationTask.batches

    def slow(self: Any, *given: Any, **named: Any) -> Any:
        for batch in batches(self, *given, **named):
            clock.seconds += 1
            yield batch

    def taking(seconds: float, function: Callable[[Student], Any]) -> Callable[[Student], Any]:
        def call(student: Student) -> Any:
            clock.seconds += seconds
            return function(student)

        return call

    monkeypatch.setattr(ClassificationTask, "batches", slow)
    monkeypatch.setattr(checkpointing, "save", taking(4, checkpointing.save))
    monkeypatch.setattr(checkpointing, "save_student", taking(3, checkpointing.save_student))
    for module in (training, result):
        monkeypatch.setattr(module, "time", clock)
    runs = [pictures.run(method, recipe=short(epochs=2)) for method in ("kd", "dist")]
    rows = done(execute(pictures.job(tmp_path, *runs), quiet))
    saving = 2 * 2 * 4 + 3  # of both students after both epochs, and of the row's own student
    assert [row.cost.wall_seconds for row in rows if row.cost] == [2 * STEPS + saving] * 2


def test_data_that_ends_before_its_epoch_fails_the_run(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = ClassificationTask.batches
    monkeypatch.setattr(ClassificationTask, "batches", lambda *a, **n: itertools.islice(batches(*a, **n), STEPS - 1))
    (row,) = execute(pictures.job(tmp_path, pictures.run()), quiet)
    assert row.status == "failed"
    assert f"the data ended at step {STEPS - 1}, before the epoch did at step {STEPS}" in row.reason
