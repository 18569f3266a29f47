"""Distributions of channel patterns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError, NetworkInfo, Outputs
from kdbench.methods.nst import discrepancy

Make = Callable[..., Any]


def loss(data: Any) -> Tensor:
    return methods.build("nst", data.setting)(data.batch, data.student, data.teacher)["nst"]


def changed(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    return replace(outputs, features=tuple(change(features) for features in outputs.features))


def test_is_the_sum_of_the_stages_without_the_stem(sample: Make) -> None:
    data = sample("classification")
    stages = [discrepancy(s, t) for s, t in zip(data.student.features[1:], data.teacher.features[1:], strict=True)]
    assert loss(data).item() == pytest.approx(50 * sum(stages).item(), rel=1e-5)


def test_scale_order_and_number_of_channels_do_not_matter(sample: Make) -> None:
    data = sample("classification")
    same = changed(data.teacher, lambda features: torch.cat([-2 * features.flip(1), features], dim=1))
    assert loss(replace(data, student=same)).item() == pytest.approx(0, abs=1e-5)
    assert loss(data).item() > 0.1


def test_orthogonal_patterns_are_as_far_apart_as_can_be() -> None:
    patterns = torch.eye(4).view(1, 4, 2, 2)
    # One pattern in every channel: a kernel of 1 with itself, 0 with the other's.
    assert discrepancy(patterns[:, [0, 0]], patterns[:, [1, 1, 1]]).item() == pytest.approx(2)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_map_is_pooled_to_the_smaller(larger: str, sample: Make) -> None:
    data = sample("classification")
    enlarged = changed(getattr(data, larger), lambda features: features.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert loss(replace(data, **{larger: enlarged})).item() == pytest.approx(loss(data).item(), rel=1e-4)


def test_a_dead_channel_keeps_the_gradient_finite() -> None:
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = discrepancy(student, torch.rand(2, 5, 4, 4))
    value.backward()
    assert value.isfinite()
    assert student.grad is not None and student.grad.isfinite().all()


def test_numbers_of_stages_must_match(sample: Make) -> None:
    setting = replace(sample("classification").setting, student=NetworkInfo((4, 4, 8), (1, 1, 2), 8))
    with pytest.raises(MethodError, match="2 stages after its stem and the teacher 3"):
        methods.build("nst", setting)
