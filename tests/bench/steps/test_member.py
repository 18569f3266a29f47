"""One member: its initial weights, the running mean of its weights, and what a step clips and takes along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import checkpoints, networks
from bench.specs import Run
from bench.steps.member import Clock, Member
from tests.bench.pictures import STEPS, Pictures, short, state_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


def member_of(pictures: Pictures, run: Run, folder: Path) -> Member:
    info = networks.build("resnet14", 10).info if run.teacher else None
    return Member(run, pictures.task(run), info, folder, CPU)


def train(member: Member, steps: int, after: Any = lambda: None) -> None:
    """`steps` steps without a teacher; `after` is called after each."""
    for step, batch in zip(range(steps), member.task.endless(CPU, "train"), strict=False):
        del step
        member.step(batch, None, None, Clock(CPU, exact=False))
        after()


def copy(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_student_begins_alike_under_every_method_and_teacher_of_a_seed(pictures: Pictures, tmp_path: Path) -> None:
    methods = ("none", "kd", "crd", "mag+kd", "ekd", "dml", "ab")
    first, *others = (copy(member_of(pictures, pictures.run(name), tmp_path).student) for name in methods)
    assert all(equal(first, other) for other in others)
    taught = pictures.run("ekd", online_teacher="resnet20")
    assert equal(first, copy(member_of(pictures, taught, tmp_path).student))
    assert not equal(first, copy(member_of(pictures, pictures.run(seed=1), tmp_path).student))


def test_an_online_teacher_begins_alike_beside_every_student_and_method(pictures: Pictures, tmp_path: Path) -> None:
    def teacher(method: str, **more: Any) -> dict[str, Tensor]:
        member = member_of(pictures, pictures.run(method, **more), tmp_path)
        assert member.teacher is not None
        return copy(member.teacher)

    first = teacher("ekd")
    assert equal(first, teacher("ekd", student="resnet20"))
    assert equal(first, teacher("dml"))
    assert not equal(first, teacher("ekd", seed=1))


def test_a_teacher_of_the_students_own_network_begins_with_other_weights(pictures: Pictures, tmp_path: Path) -> None:
    member = member_of(pictures, pictures.run("dml", online_teacher="resnet8"), tmp_path)
    assert member.teacher is not None
    assert not equal(copy(member.student), copy(member.teacher))  # twins would have nothing to tell each other


def test_a_step_trains_the_online_teacher_too(pictures: Pictures, tmp_path: Path) -> None:
    member = member_of(pictures, pictures.run("ekd"), tmp_path)
    assert member.teacher is not None
    before = copy(member.teacher)
    train(member, 1)
    moved = {name for name, value in member.teacher.state_dict().items() if not torch.equal(before[name], value)}
    assert moved == set(before)


def test_what_is_saved_is_the_running_mean_of_weights_and_statistics(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run(recipe=short(ema=0.5))
    member = member_of(pictures, run, tmp_path / run.id)
    seen: list[dict[str, Tensor]] = []
    train(member, STEPS, lambda: seen.append(copy(member.student)))
    mean = seen[0]  # the mean begins with the weights after the first step
    for state in seen[1:]:
        mean = {name: value * 0.5 + state[name] * 0.5 for name, value in mean.items()}
    member.save_student()
    saved = state_of(tmp_path, run)
    assert saved.keys() == mean.keys()
    for name, value in saved.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, mean[name].contiguous(), msg=name)
    assert not equal(saved, {name: value.contiguous() for name, value in seen[-1].items()})


def test_without_a_running_mean_the_student_itself_is_saved(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run()
    member = member_of(pictures, run, tmp_path / run.id)
    train(member, 1)
    member.save_student()
    assert equal(state_of(tmp_path, run), {name: value.contiguous() for name, value in copy(member.student).items()})


def test_a_resumed_member_is_the_one_that_was_saved(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run("ekd", recipe=short(ema=0.5))
    member, again = (member_of(pictures, run, tmp_path) for _ in range(2))
    assert not again.resume()
    train(member, 2)
    member.epoch = 1
    member.save()
    assert again.resume()
    assert (again.epoch, again.steps) == (1, 2)
    for part in ("student", "method", "teacher", "averaged"):
        assert equal(copy(getattr(member, part)), copy(getattr(again, part))), part
    assert torch.equal(member.random.cpu, again.random.cpu)


def test_a_checkpoint_of_another_network_is_refused(pictures: Pictures, tmp_path: Path) -> None:
    from bench.errors import CheckpointError

    member = member_of(pictures, pictures.run(), tmp_path)
    train(member, 1)
    member.save()
    with pytest.raises(CheckpointError, match="is another network's"):
        member_of(pictures, pictures.run(student="resnet14"), tmp_path).resume()
    assert checkpoints.read(tmp_path / "checkpoint.pt")["run"] == member.run.id


def gradient_norm(parameters: Any) -> float:
    return float(torch.stack([p.grad.square().sum() for p in parameters if p.grad is not None]).sum().sqrt())


def test_gradients_of_student_and_online_teacher_are_clipped_each_for_itself(
    pictures: Pictures, tmp_path: Path
) -> None:
    member = member_of(pictures, pictures.run("dml", recipe=short(clip_norm=0.01)), tmp_path)
    assert member.teacher is not None
    train(member, 1)
    for network in (member.student, member.teacher):
        assert gradient_norm(network.parameters()) == pytest.approx(0.01, rel=1e-3)
