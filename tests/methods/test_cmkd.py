"""CMKD: a KL with a temperature of the teacher alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def test_the_temperature_is_the_teachers_alone_and_has_no_square(sample: Make) -> None:
    data = sample("classification")
    data.student.logits = torch.tensor([[0.0, math.log(3.0)]], requires_grad=True)  # probabilities 1/4, 3/4
    data.teacher.logits = torch.tensor([[0.0, 2 * math.log(4.0)]])  # 1/5, 4/5 at T = 2
    method = methods.build("cmkd", data.setting, weight=3.0, temperature=2.0)
    (loss,) = method(data.batch, data.student, data.teacher).values()
    by_hand = 3 * (0.2 * math.log(0.2 / 0.25) + 0.8 * math.log(0.8 / 0.75))
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    # The gradient of the KL for the student's logits is the difference of the probabilities.
    assert data.student.logits.grad.tolist() == [pytest.approx([3 * (0.25 - 0.2), 3 * (0.75 - 0.8)], rel=1e-5)]


def test_it_is_transformed_teacher_matching_with_the_inverse_temperature(sample: Make) -> None:
    data = sample("classification")
    cmkd = methods.build("cmkd", data.setting, weight=0.5, temperature=2.5)
    ttm = methods.build("ttm", data.setting, weight=0.5, exponent=0.4)
    (loss,), (other,) = (method(data.batch, data.student, data.teacher).values() for method in (cmkd, ttm))
    assert loss.item() == pytest.approx(other.item(), rel=1e-6)


def test_task_and_soft_targets_weigh_the_same_by_default(sample: Make) -> None:
    method = methods.build("cmkd", sample("classification").setting)
    assert method.task_weight == method.weight == 0.5


def test_a_temperature_of_zero_is_refused(sample: Make) -> None:
    with pytest.raises(MethodError, match=r"cmkd: temperature is 0\.0; it must be positive"):
        methods.build("cmkd", sample("classification").setting, temperature=0.0)
