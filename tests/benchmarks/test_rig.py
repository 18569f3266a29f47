"""What is timed is the harness's own training, and a training that failed is never timed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdbench.train.step import train_step
from kdbench.train.timing import StepTimer
from tests.perf.rig import STEPS, Case, Rig

CPU = torch.device("cpu")
TINY = Case("tiny", "resnet14", "resnet8", "cifar_mini", {"batch_size": 8})


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig(TINY, tmp_path_factory.mktemp("rig"), CPU)


def test_a_held_loop_ends_where_bare_steps_end(rig: Rig) -> None:
    entry = ("kd", {"temperature": 2.0})
    with rig.loop(entry, ("none", {})) as loop:
        for _ in range(STEPS):
            loop.step()
    held = loop.students[0]
    bare = rig.loop(entry).students[0]
    for batch, _ in zip(rig.task.batches(0, CPU), range(STEPS), strict=False):
        train_step([bare], batch, rig.teacher, StepTimer(CPU, exact=False))
    assert held.steps == bare.steps == STEPS
    for name, value in held.network.state_dict().items():
        assert torch.equal(value, bare.network.state_dict()[name]), name


def test_a_method_with_an_earlier_phase_and_one_with_a_teacher_of_its_own_are_ready_at_once(rig: Rig) -> None:
    for method in ("mag+kd", "dml"):
        with rig.loop((method, {})) as loop:
            assert loop.students[0].steps == 0
            loop.step()
            assert loop.students[0].steps == 1


def test_a_student_that_left_the_training_is_not_timed(rig: Rig) -> None:
    with rig.loop(("none", {})) as loop:
        loop.students[0].status, loop.students[0].reason = "diverged", "loss term kd is nan"
        with pytest.raises(AssertionError, match="none left the training: diverged, loss term kd is nan"):
            loop.step()


def test_a_training_that_is_over_is_not_timed(rig: Rig) -> None:
    with rig.loop(("none", {})) as loop:
        for _ in range(STEPS):
            loop.step()
        with pytest.raises(AssertionError, match="the training is over"):
            loop.step()


def test_an_error_of_the_loop_comes_through(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no data")

    monkeypatch.setattr("tests.perf.rig.train", broken)
    with pytest.raises(OSError, match="no data"), rig.loop(("none", {})):
        pass


def test_the_teachers_outputs_are_of_a_usual_size(tmp_path: Path) -> None:
    rig = Rig(TINY, tmp_path, CPU)
    logits = rig.teacher(next(rig.task.batches(0, CPU)).inputs).logits
    assert isinstance(logits, torch.Tensor)
    assert 0.05 < logits.std() < 20 and not rig.teacher.training
    assert not any(parameter.requires_grad for parameter in rig.teacher.parameters())
