"""Activation boundaries: the initial loss, what follows it, connectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.ab import boundary
from kdbench.methods.base import MethodError, NetworkInfo


def initial(method: Any, data: Any) -> Tensor:
    return method(data.batch, data.student, data.teacher, initial=True)["ab"]


def test_neurons_pay_until_they_are_a_margin_away_on_the_teachers_side() -> None:
    cases = [(-2.0, -1.0, 0.0), (-1.0, 0.0, 0.0), (0.5, -3.0, 2.25), (0.5, 3.0, 0.25), (1.0, 3.0, 0.0), (-1, 0.1, 4.0)]
    for student, teacher, expected in cases:
        two = torch.full((2, 1, 1, 3), float(student)), torch.full((2, 1, 1, 3), float(teacher))
        assert boundary(*two, 1.0).item() == pytest.approx(3 * expected)


def test_initial_loss_is_the_released_sum_without_weight(equal_widths: Any) -> None:
    total = 0.0
    pairs = zip(*(o.extra["pre_activations"] for o in (equal_widths.student, equal_widths.teacher)), strict=True)
    for level, (s, t) in enumerate(pairs):
        error = (s + 2) ** 2 * ((s > -2) & (t <= 0)) + (s - 2) ** 2 * ((s <= 2) & (t > 0))
        total += error.sum().item() / len(s) / 1000 * 3 * 2.0 ** (level - 2)
    method = methods.build("ab", equal_widths.setting, margin=2.0, weight=9.0)
    assert initial(method, equal_widths).item() == pytest.approx(total, rel=1e-5)


def test_the_task_is_learned_without_the_loss_unless_joint(equal_widths: Any) -> None:
    method = methods.build("ab", equal_widths.setting)
    assert method.initial_epochs == 30
    assert method(equal_widths.batch, equal_widths.student, equal_widths.teacher) == {}
    joint = methods.build("ab", equal_widths.setting, joint=True, weight=9.0)
    value = joint(equal_widths.batch, equal_widths.student, equal_widths.teacher)["ab"].item()
    assert value == pytest.approx(9 * initial(joint, equal_widths).item())


def test_only_the_side_of_the_teachers_boundary_matters(equal_widths: Any) -> None:
    method = methods.build("ab", equal_widths.setting)
    scaled = tuple(5 * x for x in equal_widths.teacher.extra["pre_activations"])
    stronger = replace(equal_widths, teacher=replace(equal_widths.teacher, extra={"pre_activations": scaled}))
    assert initial(method, equal_widths) == initial(method, stronger)


@pytest.mark.parametrize(("student", "teacher"), [((1, 2), (1, 2)), ((1, 2), (2, 4)), ((2, 4), (1, 2))])
def test_connectors_bring_maps_to_the_teachers_shape(
    student: tuple[int, int], teacher: tuple[int, int], equal_widths: Any
) -> None:
    infos = [NetworkInfo((width, *(2 * width,) * 2), (1, *strides)) for width, strides in ((3, student), (5, teacher))]
    torch.manual_seed(0)
    method = methods.build("ab", replace(equal_widths.setting, student=infos[0], teacher=infos[1]))
    for info in infos:
        maps = tuple(torch.randn(4, 2 * info.channels[0], 16 // s, 16 // s) for s in info.strides[1:])
        side = "student" if info is infos[0] else "teacher"
        equal_widths = replace(equal_widths, **{side: replace(equal_widths.student, extra={"pre_activations": maps})})
    loss = initial(method, equal_widths)
    loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_faults_are_named(equal_widths: Any) -> None:
    with pytest.raises(MethodError, match="initial_epochs is 0"):
        methods.build("ab", equal_widths.setting, initial_epochs=0)
    far = replace(equal_widths.setting.teacher, strides=(1, 4, 8, 16))
    with pytest.raises(MethodError, match="stride 1 and the teacher's 4"):
        methods.build("ab", replace(equal_widths.setting, teacher=far))
    with pytest.raises(MethodError, match="0 levels of connected pre-activations"):
        initial(
            methods.build("ab", equal_widths.setting),
            replace(equal_widths, student=replace(equal_widths.student, extra={})),
        )
