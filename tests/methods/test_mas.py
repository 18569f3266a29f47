"""MAS: where it differs from MAG (`test_mag.py` tests what they share)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.functional import kl_divergence

Make = Callable[..., Any]


@pytest.fixture
def data(sample: Make) -> Any:
    return sample("classification")


def seeded(name: str, data: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return methods.build(name, data.setting, **options)


def test_only_the_soft_target_differs_from_mag(data: Any) -> None:
    mag, mas = (seeded(f"{name}+sp", data)(data.batch, data.student, data.teacher) for name in ("mag", "mas"))
    assert {name for name in mag if mag[name] != mas[name]} == {"soft_target"}
    assert mag.keys() == mas.keys()


def test_the_soft_target_is_the_plain_mean_of_three_logits(data: Any) -> None:
    method = seeded("mas+kd", data)
    decoded = method.teacher_modules.decode(*method.teacher_modules.codes(data.teacher.pooled))
    mean = (data.teacher.logits + decoded[0] + decoded[1]) / 3
    expected = 0.8 * kl_divergence(data.student.logits, mean, 4.0)
    found = method(data.batch, data.student, data.teacher)["soft_target"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_no_gradient_reaches_the_teacher_or_its_modules(data: Any) -> None:
    method = seeded("mas+kd", data)
    method(data.batch, data.student, data.teacher)["soft_target"].backward()
    assert data.student.logits.grad.any()
    assert data.teacher.logits.grad is None and data.teacher.pooled.grad is None
    assert all(parameter.grad is None for parameter in method.teacher_modules.parameters())
