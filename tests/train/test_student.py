"""One student: its initial weights, the running mean of its weights, and what a step clips and takes along."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from kdbench import networks
from kdbench.networks.base import Network
from kdbench.networks.load import load_network
from kdbench.records import checkpoint as checkpoints
from kdbench.spec.run import Run
from kdbench.train import checkpointing
from kdbench.train.job import execute
from kdbench.train.step import train_step
from kdbench.train.student import Student
from kdbench.train.timing import StepTimer
from tests.helpers.pictures import STEPS, Pictures, done, short, state_of
from tests.helpers.tensors import equal

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


def student_of(pictures: Pictures, run: Run, folder: Path) -> Student:
    info = networks.build("resnet14", 10).info if run.teacher else None
    return Student(run, pictures.task(run), info, folder, CPU)


def train(student: Student, steps: int, after: Any = lambda: None) -> None:
    """`steps` steps without a teacher; `after` is called after each."""
    for step, batch in zip(range(steps), student.task.endless(CPU, "train"), strict=False):
        del step
        train_step([student], batch, None, StepTimer(CPU, exact=False))
        assert student.active, student.reason
        after()


def copy(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_student_begins_alike_under_every_method_and_teacher_of_a_seed(pictures: Pictures, tmp_path: Path) -> None:
    methods = ("none", "kd", "crd", "mag+kd", "ekd", "dml", "ab")
    first, *others = (copy(student_of(pictures, pictures.run(name), tmp_path).network) for name in methods)
    assert all(equal(first, other) for other in others)
    taught = pictures.run("ekd", online_teacher="resnet20")
    assert equal(first, copy(student_of(pictures, taught, tmp_path).network))
    assert not equal(first, copy(student_of(pictures, pictures.run(seed=1), tmp_path).network))


def test_an_online_teacher_begins_alike_beside_every_student_and_method(pictures: Pictures, tmp_path: Path) -> None:
    def teacher(method: str, **more: Any) -> dict[str, Tensor]:
        student = student_of(pictures, pictures.run(method, **more), tmp_path)
        assert student.online_teachers is not None
        return copy(student.online_teachers.first)

    first = teacher("ekd")
    assert equal(first, teacher("ekd", student="resnet20"))
    assert equal(first, teacher("dml"))
    assert not equal(first, teacher("ekd", seed=1))


def test_a_teacher_of_the_students_own_network_begins_with_other_weights(pictures: Pictures, tmp_path: Path) -> None:
    student = student_of(pictures, pictures.run("dml", online_teacher="resnet8"), tmp_path)
    assert student.online_teachers is not None
    assert not equal(
        copy(student.network), copy(student.online_teachers.first)
    )  # twins would have nothing to tell each other


@pytest.mark.parametrize("teachers", [1, 2])
def test_a_step_trains_the_online_teachers_too(teachers: int, pictures: Pictures, tmp_path: Path) -> None:
    student = student_of(pictures, pictures.run("ekd", options={"teachers": teachers}), tmp_path)
    assert student.online_teachers is not None and len(student.online_teachers.networks) == teachers
    before = copy(student.online_teachers)
    train(student, 1)
    moved = {
        name for name, value in student.online_teachers.state_dict().items() if not torch.equal(before[name], value)
    }
    assert moved == set(before)


def test_channels_last_holds_for_every_teacher_and_for_a_copy(pictures: Pictures, tmp_path: Path) -> None:
    recipe = short(channels_last=True)
    for options in ({"teachers": 2}, {"guided": False, "snapshots": 1}):
        student = student_of(pictures, pictures.run("ekd", recipe=recipe, options=options), tmp_path)
        train(student, STEPS)
        assert student.online_teachers is not None
        weights = [p for p in student.online_teachers.parameters() if p.ndim == 4 and min(p.shape) > 1]
        assert len(weights) % 2 == 0 and weights
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def test_the_student_follows_the_copy_from_the_step_that_takes_it(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run("ekd", options={"guided": False, "snapshots": 1, "alpha": 0.5})
    student = student_of(pictures, run, tmp_path)
    assert student.online_teachers is not None and student.online_teachers.snapshot is not None
    states: list[dict[str, Tensor]] = []
    losses: list[dict[str, float]] = []

    def look() -> None:
        states.append(copy(student.online_teachers.first))  # type: ignore[union-attr]
        losses.append(student.read_losses())

    train(student, STEPS, look)
    assert [loss["soft_target"] > 0 for loss in losses] == [False, False, True]  # 3 / 2 steps, rounded up
    assert [loss["early_task"] > 0 for loss in losses] == [True, True, False]
    for loss in losses[:2]:
        assert loss["early_task"] == pytest.approx(loss["cross_entropy"], rel=1e-6)  # both are half of the labels' loss
    assert equal(copy(student.online_teachers.snapshot), states[1])


def test_what_is_saved_is_the_running_mean_of_weights_and_statistics(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run(recipe=short(ema=0.5))
    student = student_of(pictures, run, tmp_path / run.id)
    seen = [copy(student.network)]  # the mean begins with the initial weights
    train(student, STEPS, lambda: seen.append(copy(student.network)))
    mean = seen[0]
    for state in seen[1:]:
        mean = {name: value * 0.5 + state[name] * 0.5 for name, value in mean.items()}
    checkpointing.save_student(student)
    saved = state_of(tmp_path, run)
    assert saved.keys() == mean.keys()
    for name, value in saved.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, mean[name].contiguous(), msg=name)
    assert not equal(saved, {name: value.contiguous() for name, value in seen[-1].items()})


def test_without_a_running_mean_the_student_itself_is_saved(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run()
    student = student_of(pictures, run, tmp_path / run.id)
    train(student, 1)
    checkpointing.save_student(student)
    assert equal(state_of(tmp_path, run), {name: value.contiguous() for name, value in copy(student.network).items()})


@pytest.mark.parametrize("options", [{}, {"teachers": 2}, {"guided": False, "snapshots": 2}])
def test_a_resumed_student_is_in_the_state_that_was_saved(
    options: dict[str, Any], pictures: Pictures, tmp_path: Path
) -> None:
    run = pictures.run("ekd", recipe=short(ema=0.5), options=options)
    student, again = (student_of(pictures, run, tmp_path) for _ in range(2))
    assert not checkpointing.resume(again)
    train(student, 2)
    student.read_losses()
    student.epoch = 1
    with student.random_state.current():
        torch.rand(1)  # these methods draw nothing
    assert not torch.equal(student.random_state.cpu, again.random_state.cpu)
    checkpointing.save(student)
    assert checkpointing.resume(again)
    assert (again.epoch, again.steps, again.epoch_stats) == (1, 2, student.epoch_stats)
    for part in ("network", "method", "online_teachers", "averaged"):
        assert equal(copy(getattr(student, part)), copy(getattr(again, part))), part
    assert torch.equal(student.random_state.cpu, again.random_state.cpu)


def test_a_checkpoint_of_another_format_is_not_resumed(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run("dml")
    student, again = (student_of(pictures, run, tmp_path) for _ in range(2))
    train(student, 1)
    checkpointing.save(student)
    content = checkpoints.read(tmp_path / "checkpoint.pt")
    checkpoints.write(tmp_path / "checkpoint.pt", content | {"format": content["format"] - 1})
    before = copy(again.network)
    assert not checkpointing.resume(again)
    assert again.steps == 0 and equal(copy(again.network), before)


def test_a_checkpoint_of_another_network_is_refused(pictures: Pictures, tmp_path: Path) -> None:
    from kdbench.errors import CheckpointError

    student = student_of(pictures, pictures.run(), tmp_path)
    train(student, 1)
    checkpointing.save(student)
    with pytest.raises(CheckpointError, match="is another network's"):
        checkpointing.resume(student_of(pictures, pictures.run(student="resnet14"), tmp_path))
    assert checkpoints.read(tmp_path / "checkpoint.pt")["run"] == student.run.id


def gradient_norm(parameters: Any) -> float:
    return float(torch.stack([p.grad.square().sum() for p in parameters if p.grad is not None]).sum().sqrt())


@pytest.mark.parametrize(
    ("method", "options"), [("dml", {}), ("ekd", {}), ("ekd", {"guided": False}), ("ekd", {"teachers": 3})]
)
def test_gradients_of_student_and_online_teachers_are_clipped_each_for_itself(
    method: str, options: dict[str, Any], pictures: Pictures, tmp_path: Path
) -> None:
    run = pictures.run(method, recipe=short(clip_norm=0.01), options=options)
    student = student_of(pictures, run, tmp_path)
    assert student.online_teachers is not None
    train(student, 1)
    beside = [list(module.parameters()) for module in student.method.teacher_side_modules()]
    theirs = {id(parameter) for side in beside for parameter in side}
    own = [parameter for parameter in student.method.parameters() if id(parameter) not in theirs]
    sides = [[*student.network.parameters(), *own]]
    for network, modules in itertools.zip_longest(student.online_teachers.networks, beside, fillvalue=()):
        sides.append([*cast(Network, network).parameters(), *modules])
    assert bool(beside) == options.get("guided", method == "ekd")
    for side in sides:
        assert gradient_norm(side) == pytest.approx(0.01, rel=1e-3)


def test_modules_beside_a_fixed_teacher_are_clipped_apart_from_the_student(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run("ekd", recipe=short(clip_norm=0.01), options={"pretrained": True})
    student = student_of(pictures, run, tmp_path)
    (modules,) = student.method.teacher_side_modules()
    of_student, of_teacher = ({id(parameter) for parameter in part} for part in student.clip_groups)
    assert of_teacher == {id(parameter) for parameter in modules.parameters()}
    assert {id(parameter) for parameter in student.network.parameters()} < of_student


def test_a_method_clips_gradients_of_its_choice_before_the_step(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, clipped = (student_of(pictures, pictures.run("dml"), tmp_path) for _ in range(2))
    last = list(clipped.network.get_submodule("fc").parameters())
    monkeypatch.setattr(clipped.method, "clip_norms", lambda: [(last, 1e-3)])
    for student in (free, clipped):
        train(student, 1)
    assert gradient_norm(last) == pytest.approx(1e-3, rel=1e-3)
    for (name, one), other in zip(free.network.named_parameters(), clipped.network.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad) == (not name.startswith("fc.")), name


def test_a_classifier_without_bias_keeps_zeros_in_its_place(pictures: Pictures, tmp_path: Path) -> None:
    student = student_of(pictures, pictures.run("catkd"), tmp_path)
    biased = student_of(pictures, pictures.run("kd"), tmp_path)
    before = copy(student.network)
    assert before.keys() == copy(biased.network).keys()
    assert not before["fc.bias"].any()
    assert all(torch.equal(before[name], value) for name, value in copy(biased.network).items() if name != "fc.bias")
    trained = {id(parameter) for group in student.optimizer.param_groups for parameter in group["params"]}
    assert id(student.network.get_parameter("fc.bias")) not in trained
    assert id(student.network.get_parameter("fc.weight")) in trained


@pytest.mark.parametrize("recipe", [{}, {"ema": 0.5}])
def test_a_student_with_a_head_is_evaluated_saved_and_counted_with_it(
    recipe: dict[str, Any], pictures: Pictures, tmp_path: Path
) -> None:
    run = pictures.run("simkd", recipe=short(**recipe))
    (row,) = done(execute(pictures.job(tmp_path, run), lambda _: None))
    content = checkpoints.read(tmp_path / run.id / "student.pt")
    head = content["head"]
    assert head["method"] == "simkd" and head["arguments"]["student"] == 64
    alone = networks.build("resnet8", 10)
    assert content["state"].keys() == alone.state_dict().keys()
    saved = load_network(tmp_path / run.id / "student.pt", "resnet8", pictures.task(run).classes, CPU).eval()
    assert pictures.task(run).evaluate(saved, CPU, reference=True) == {
        name: value for name, value in row.metrics.last.items() if not name.startswith("agreement")
    }
    projector = sum(value.numel() for name, value in head["state"].items() if name.endswith(("weight", "bias")))
    own = sum(parameter.numel() for name, parameter in alone.named_parameters() if not name.startswith("fc."))
    assert row.cost is not None and row.cost.params == own + projector
    assert row.cost.flops > pictures.task(run).flops(alone)
