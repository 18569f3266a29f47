"""`epoch` and `step` of a method: in every phase, in cohorts, with micro-batches and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdbench import methods
from kdbench.methods import _outside
from kdbench.train import loop as training
from kdbench.train.events import Event
from kdbench.train.job import execute
from tests.helpers.pictures import STEPS, Pictures, done, short

PROBE = '''"""A method whose loss is the epoch."""

from torch import Tensor

from kdbench.methods.base import Batch, Method, MethodError, Outputs, Setting


class Probe(Method):
    """The epoch as a loss."""

    name = "probe"
    citation = "A. User. 2026. https://example.org"
    tasks = frozenset({"classification"})

    # phases

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        if self.epoch != self.step / self.setting.steps_per_epoch or not self.epoch < self.setting.epochs:
            raise MethodError(f"probe: epoch is {self.epoch} at step {self.step}")
        return {"epoch": 0 * student.logits.mean() + self.epoch, "images": 0 * student.logits.mean() + len(batch.index)}

    def learned(self) -> dict[str, float]:
        return {"epoch": self.epoch, "step": self.step}
'''

PHASES = """
    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.initial_epochs = 1

    def prepare(self, teacher, batches) -> None:
        self.check()

    def initial(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        self.check()
        return {"probe": student.logits.mean()}

    def check(self) -> None:
        if self.epoch != 0 or self.step != 0:
            raise MethodError(f"epoch is {self.epoch} and step {self.step} before the training")
"""


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pictures:
    """With the methods `probe` and `phases`, which also has earlier phases."""
    monkeypatch.setattr(_outside, "_files", {})
    phases = PROBE.replace("    # phases\n", PHASES).replace('"probe"', '"phases"')
    for name, text in {"probe": PROBE, "phases": phases}.items():
        (tmp_path / f"{name}.py").write_text(text)
        methods.register(tmp_path / f"{name}.py")
    return Pictures(tmp_path)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_method_and_what_it_is_summed_with_know_the_epoch_at_every_step(
    accumulate: int, pictures: Pictures, tmp_path: Path
) -> None:
    recipe = short(epochs=2, accumulate=accumulate)
    runs = [pictures.run(method, recipe=recipe) for method in ("probe", "kd+probe", "phases")]
    rows = done(execute(pictures.job(tmp_path / "runs", *runs), lambda _: None))
    for row in rows:
        epochs = [sum((epoch * STEPS + step) / STEPS for step in range(STEPS)) / STEPS for epoch in range(2)]
        losses = [{name.split("/")[-1]: value for name, value in epoch.losses.items()} for epoch in row.history]
        assert [each["epoch"] for each in losses] == pytest.approx(epochs)
        assert [each["images"] for each in losses] == [8 / accumulate] * 2
        assert row.learned == {"epoch": 2.0, "step": 6}, "at the end of the training"


def test_a_resumed_run_continues_with_the_epoch(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pictures.run("phases", recipe=short(epochs=3))
    (whole,) = done(execute(pictures.job(tmp_path / "whole", run), lambda _: None))

    class Killed(BaseException):
        pass

    def kill(event: Event) -> None:
        if event.event == "epoch":
            raise Killed

    monkeypatch.setattr(training, "SAVE_SHARE", 1.0)
    with pytest.raises(Killed):
        execute(pictures.job(tmp_path / "killed", run), kill)
    resumed: list[Any] = []

    def listen(event: Event) -> None:
        if event.event == "resumed":
            resumed.append(event.epoch)

    (row,) = done(execute(pictures.job(tmp_path / "killed", run), listen))
    assert resumed == [1]
    assert [epoch.losses for epoch in row.history] == [epoch.losses for epoch in whole.history]
    assert row.learned == whole.learned == {"epoch": 3.0, "step": 9}


def test_a_method_of_another_training_script_is_told_the_progress() -> None:
    from kdbench.contract.samples import make_sample

    data = make_sample("classification")
    method = methods.build("dist+dkd", data.setting)
    assert [(part.epoch, part.step) for part in method.submethods()] == [(0.0, 0)] * 2
    method.set_progress(7, 5)
    assert [(part.epoch, part.step) for part in (method, *method.submethods())] == [(1.4, 7)] * 3
