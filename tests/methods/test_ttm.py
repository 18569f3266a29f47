"""Transformed teacher matching, with and without weights of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def loss(data: Any, name: str, **options: Any) -> float:
    (value,) = methods.build(name, data.setting, **options)(data.batch, data.student, data.teacher).values()
    return float(value.item())


def test_the_exponent_is_a_temperature_of_the_teacher_alone(sample: Make) -> None:
    data = sample("classification")
    q = F.softmax(data.teacher.logits.detach() / 5, dim=1)
    expected = F.kl_div(F.log_softmax(data.student.logits, dim=1), q, reduction="batchmean").item()
    assert loss(data, "ttm", weight=1.0, exponent=0.2) == pytest.approx(expected, rel=1e-5)


def test_an_uncertain_teacher_weighs_more(sample: Make) -> None:
    data = sample("classification")
    shares = []
    for scale in (0.0, 8.0):  # a teacher without preference, and one that is nearly certain
        teacher = replace(data.teacher, logits=scale * F.one_hot(torch.arange(4), 5).float())
        other = replace(data, teacher=teacher)
        shares.append(loss(other, "wttm", weight=1.0) / loss(other, "ttm", weight=1.0, exponent=0.2))
    assert shares[0] == pytest.approx(5**0.8, rel=1e-4) and 1 < shares[1] < 2


@pytest.mark.parametrize("name", ["ttm", "wttm"])
def test_confident_logits_stay_finite(name: str, sample: Make) -> None:
    data = sample("classification")
    data.teacher.logits = torch.tensor([[1e3, 0, 0, 0, 0]] * 4)
    assert 0 < loss(data, name) < 1e3


@pytest.mark.parametrize("name", ["ttm", "wttm"])
def test_an_exponent_of_zero_is_refused(name: str, sample: Make) -> None:
    with pytest.raises(MethodError, match=rf"{name}: exponent is 0\.0; it must be positive"):
        methods.build(name, sample("classification").setting, exponent=0.0)
