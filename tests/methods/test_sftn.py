"""SFTN: branches of the student's widths on the teacher's stages, and which term trains what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import methods, networks
from kdbench.methods.base import Method, MethodError, NetworkInfo, Setting

Make = Callable[..., Any]


@pytest.fixture
def data(sample: Make) -> Any:
    return sample("classification")


def build(data: Any, **options: Any) -> Method:
    torch.manual_seed(0)
    return methods.build("sftn", data.setting, **options)


def branches(method: Method) -> list[nn.Sequential]:
    (modules,) = method.teacher_side_modules()
    return list(modules.stages)  # type: ignore[arg-type]


def terms(method: Method, data: Any) -> dict[str, Tensor]:
    return method(data.batch, data.student, data.teacher)


def test_a_branch_has_the_students_widths_from_its_stage_on() -> None:
    infos = [networks.build(name, 10).info for name in ("resnet20", "resnet32x4")]
    method = methods.build("sftn", Setting("classification", 10, 8, *infos))
    found = [[layer for layer in branch if isinstance(layer, nn.Conv2d)] for branch in branches(method)]
    shapes = [[(conv.in_channels, conv.out_channels, conv.stride[0]) for conv in convs] for convs in found]
    assert shapes == [[(64, 16, 1), (16, 32, 2), (32, 64, 2)], [(128, 32, 1), (32, 64, 2)]]
    maps = torch.randn(2, 64, 32, 32), torch.randn(2, 128, 16, 16)
    assert [branch[:-3](each).shape[1:] for branch, each in zip(branches(method), maps, strict=True)] == [
        (64, 8, 8)
    ] * 2
    assert [branch(each).shape for branch, each in zip(branches(method), maps, strict=True)] == [(2, 10)] * 2


def test_terms_are_those_of_the_class(data: Any) -> None:
    method = build(data, branch_weight=2.0, branch_soft_weight=3.0, weight=5.0, temperature=2.0)
    logits = [branch(data.teacher.features[i + 1]) for i, branch in enumerate(branches(method))]
    s, t, y = data.student.logits, data.teacher.logits, data.batch.targets
    soft = [F.kl_div(z.log_softmax(1), t.softmax(1), reduction="batchmean") for z in logits]
    target = F.kl_div((s / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean")
    expected = {
        "teacher_task": F.cross_entropy(t, y),
        "branch_task": 2 * (F.cross_entropy(logits[0], y) + F.cross_entropy(logits[1], y)) / 2,
        "branch_soft": 3 * (soft[0] + soft[1]) / 2,
        "sftn": 5 * 4 * target,
    }
    found = terms(method, data)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=1e-5
    )
    assert method.task_weight == 0.1


@pytest.mark.parametrize(
    ("term", "reached"),
    [
        ("teacher_task", {"teacher logits"}),
        ("branch_task", {"teacher features", "branches"}),
        ("branch_soft", {"teacher logits", "teacher features", "branches"}),
        ("sftn", {"student logits"}),
    ],
)
def test_the_teacher_comes_towards_its_branches_and_the_student_trains_no_teacher(
    term: str, reached: set[str], data: Any
) -> None:
    method = build(data)
    places = {
        "student logits": data.student.logits,
        "teacher logits": data.teacher.logits,
        "teacher features": data.teacher.features[1],
        "branches": branches(method)[0][0].weight,
    }
    gradients = torch.autograd.grad(terms(method, data)[term], list(places.values()), allow_unused=True)
    assert {name for name, each in zip(places, gradients, strict=True) if each is not None} == reached


def test_its_teacher_is_online_and_takes_the_branches_along(data: Any) -> None:
    assert methods.teacher_mode("sftn", methods.resolve("sftn", {})) == "online"
    method = build(data)
    own = {id(parameter) for module in method.teacher_side_modules() for parameter in module.parameters()}
    assert own == {id(parameter) for parameter in method.parameters()}


def test_networks_without_comparable_stages_are_refused(data: Any) -> None:
    def refuses(message: str, **infos: NetworkInfo) -> None:
        with pytest.raises(MethodError, match=message):
            methods.build("sftn", replace(data.setting, **infos))

    info = data.setting.teacher
    refuses("the student has 2 stages and the teacher 3", student=NetworkInfo((4, 4, 8), (1, 1, 2)))
    one = NetworkInfo((4, 4), (1, 1))
    refuses("the student has 1 stages and the teacher 1", student=one, teacher=one)
    refuses("the strides of the teacher's stages are unknown", teacher=replace(info, strides=()))
    with pytest.raises(MethodError, match=r"sftn: temperature is 0\.0; it must be positive"):
        build(data, temperature=0.0)
