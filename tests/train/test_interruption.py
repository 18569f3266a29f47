"""Jobs that are asked to stop by a signal: they save what they have trained, and resumed runs end as if undisturbed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdbench.errors import LoaderError
from kdbench.records import checkpoint as checkpoints
from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.tasks.classification import ClassificationTask
from kdbench.train import loop as training
from kdbench.train.events import Event
from kdbench.train.interruption import SIGNALS, Interrupted, interruption
from kdbench.train.job import execute
from tests.helpers.pictures import Pictures, done, numbers, short, state_of
from tests.helpers.tensors import equal


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Signals are received as in a job, and as before after the test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    interruption.listen()
    yield
    interruption.asked = False
    for number, handler in before.items():
        signal.signal(number, handler)


def ask(number: int) -> None:
    os.kill(os.getpid(), number)


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do something while the batch of a step is prepared."""
    train_step, steps = training.train_step, iter(range(1, 99))

    def counting(*given: Any) -> None:
        if next(steps) == step:
            action()
        train_step(*given)

    monkeypatch.setattr(training, "train_step", counting)


def steps_of(results: Path, *runs: Any) -> list[int]:
    return [checkpoints.read(results / run.id / "checkpoint.pt")["steps"] for run in runs]


@pytest.mark.parametrize(("step", "number"), [(2, signal.SIGTERM), (4, signal.SIGUSR1), (10, signal.SIGINT)])
def test_a_job_saves_at_once_and_its_runs_end_bitwise_the_same(
    step: int, number: int, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the first epoch, where nothing is reported nor saved, and in the last step of the second."""
    recipe = short(epochs=3, batch_size=5)
    runs = [pictures.run(method, recipe=recipe) for method in ("none", "dist")]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    at_once = done(execute(pictures.job(whole, *runs), lambda _: None))
    with monkeypatch.context() as patch:
        before_step(patch, step, lambda: ask(number))
        with pytest.raises(Interrupted):
            execute(pictures.job(parts, *runs), lambda _: None)
    assert steps_of(parts, *runs) == [step, step]
    interruption.asked = False
    events: list[Event] = []
    resumed = done(execute(pictures.job(parts, *runs), events.append))
    assert [event.step for event in events if event.event == "resumed"] == [step, step]
    for run, one, other in zip(runs, at_once, resumed, strict=True):
        assert equal(state_of(whole, run), state_of(parts, run)) and numbers(one) == numbers(other)


def test_the_epoch_that_is_being_evaluated_is_saved(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its saving was not due."""
    run = pictures.run(recipe=short(epochs=3))
    evaluate = ClassificationTask.evaluate
    monkeypatch.setattr(training, "SAVE_SHARE", 1e-9)
    monkeypatch.setattr(training._Saving, "is_due", False)

    def evaluating(*given: Any, **named: Any) -> Any:
        ask(signal.SIGTERM)
        return evaluate(*given, **named)

    monkeypatch.setattr(ClassificationTask, "evaluate", evaluating)
    with pytest.raises(Interrupted):
        execute(pictures.job(tmp_path, run), lambda _: None)
    assert steps_of(tmp_path, run) == [3]


def test_the_end_of_the_loaders_processes_is_no_failure_of_the_run(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        ask(signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated")

    before_step(monkeypatch, 2, die)
    run = pictures.run()
    with pytest.raises(Interrupted):
        execute(pictures.job(tmp_path, run), lambda _: None)
    assert not (tmp_path / run.id / "row.json").exists()


def test_outside_of_training_a_job_ends_at_once(pictures: Pictures, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        execute(pictures.job(tmp_path, pictures.run("kd")), lambda event: ask(signal.SIGTERM))


def test_a_signal_at_the_very_end_of_training_stops_the_job_before_its_evaluation(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epochs = training._train_epochs

    def then_ask(cohort: Any) -> None:
        train_epochs(cohort)
        ask(signal.SIGTERM)

    monkeypatch.setattr(training, "_train_epochs", then_ask)
    run = pictures.run()
    with pytest.raises(Interrupted):
        execute(pictures.job(tmp_path, run), lambda _: None)
    assert steps_of(tmp_path, run) == [3] and not (tmp_path / run.id / "row.json").exists()


@pytest.mark.parametrize("delay", [None, 0.2])
def test_an_evaluation_whose_loader_a_signal_has_ended_is_no_failure_of_the_run(
    delay: float | None, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is noticed instead of the signal, or a moment before."""

    def dies(*_: Any, **__: Any) -> Any:
        try:
            if delay is None:
                ask(signal.SIGTERM)
            else:
                threading.Timer(delay, ask, [signal.SIGTERM]).start()
        finally:
            raise LoaderError("DataLoader worker (pid 7) is killed by signal: Terminated")

    monkeypatch.setattr(ClassificationTask, "measure", dies)
    run = pictures.run()
    with pytest.raises(Interrupted):
        execute(pictures.job(tmp_path, run), lambda _: None)
    assert steps_of(tmp_path, run) == [3] and not (tmp_path / run.id / "row.json").exists()


def test_a_run_whose_row_is_being_written_is_finished_and_the_next_one_is_not_begun(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write

    def asked(self: Store, row: Row) -> Path:
        ask(signal.SIGTERM)
        return write(self, row)

    monkeypatch.setattr(Store, "write", asked)
    first, second = pictures.run(), pictures.run(student="resnet14")
    events: list[Event] = []
    with pytest.raises(Interrupted):
        execute(pictures.job(tmp_path, first, second), events.append)
    assert [event.status for event in events if event.event == "row"] == ["done"]
    assert not (tmp_path / first.id / "checkpoint.pt").exists() and steps_of(tmp_path, second) == [3]


def test_what_a_job_releases_on_its_way_out_is_not_stopped_by_further_signals() -> None:
    with pytest.raises(Interrupted):
        ask(signal.SIGTERM)
    ask(signal.SIGTERM)
    ask(signal.SIGINT)
