"""Temperatures by the standard deviation of an image's logits, in KD and in DKD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]
NAMES = ["normkd", "normkd_dkd"]


def terms(data: Any, name: str, **options: Any) -> dict[str, float]:
    losses = methods.build(name, data.setting, **options)(data.batch, data.student, data.teacher)
    return {key: value.item() for key, value in losses.items()}


@pytest.mark.parametrize(("name", "plain"), [("normkd", "kd"), ("normkd_dkd", "dkd")])
def test_logits_of_one_deviation_have_one_temperature(name: str, plain: str, sample: Make) -> None:
    data = sample("classification")
    for outputs in (data.student, data.teacher):
        outputs.logits = (3 * outputs.logits / outputs.logits.std(dim=1, keepdim=True)).detach()
    found, expected = terms(data, name), terms(data, plain, temperature=6.0)
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_students_scale_does_not_count_and_the_teachers_does_squared(name: str, sample: Make) -> None:
    data = sample("classification")
    before = terms(data, name)
    assert terms(replace(data, student=replace(data.student, logits=7 * data.student.logits)), name) == pytest.approx(
        before, rel=1e-4
    )
    larger = terms(replace(data, teacher=replace(data.teacher, logits=2 * data.teacher.logits)), name)
    assert larger == pytest.approx({key: 4 * value for key, value in before.items()}, rel=1e-4)


def test_equal_logits_of_an_image_give_finite_losses(sample: Make) -> None:
    data = sample("classification")
    data.student.logits = torch.zeros_like(data.student.logits, requires_grad=True)
    (loss,) = methods.build("normkd", data.setting)(data.batch, data.student, data.teacher).values()
    loss.backward()
    assert loss.isfinite() and data.student.logits.grad.isfinite().all()


def test_dkd_warms_up(sample: Make) -> None:
    data = sample("classification")
    full, first = terms(data, "normkd_dkd", warmup_epochs=0), terms(data, "normkd_dkd")
    assert first == pytest.approx({key: value / 20 for key, value in full.items()}, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_norm_of_zero_is_refused(name: str, sample: Make) -> None:
    with pytest.raises(MethodError, match=rf"{name}: temperature_norm is 0\.0; it must be positive"):
        methods.build(name, sample("classification").setting, temperature_norm=0.0)
