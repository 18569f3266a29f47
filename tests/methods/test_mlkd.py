"""MLKD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def terms(name: str, data: Any, **options: Any) -> dict[str, float]:
    found = methods.build(name, data.setting, **options)(data.batch, data.student, data.teacher)
    return {key: value.item() for key, value in found.items()}


def test_asks_for_a_strong_view_also_inside_a_wrapper() -> None:
    assert methods.views("mlkd") == methods.views("ls+mlkd") == methods.views("kd+mlkd") == ("strong",)
    assert methods.views("kd") == ()


def test_nothing_but_the_cross_entropy_is_left_for_equal_logits(sample: Make) -> None:
    data = sample("classification")
    found = terms("mlkd", replace(data, teacher=data.student))
    assert found.pop("strong_cross_entropy") > 0.01
    assert all(abs(value) < 1e-5 for value in found.values())
    assert all(value > 1e-3 for value in terms("mlkd", data).values())


def test_standardization_changes_the_soft_targets_alone(sample: Make) -> None:
    data, same = sample("classification"), {"weight": 9.0, "temperature": 2.0}
    plain, standardized = terms("mlkd", data, **same), terms("ls+mlkd", data)
    assert standardized.pop("kd_loss") != pytest.approx(plain.pop("kd_loss"), rel=1e-2)
    assert standardized == plain


def test_the_strong_view_teaches_by_three_temperatures_and_its_labels(sample: Make) -> None:
    data = sample("classification")
    strong = {"strong": replace(data.teacher.views["strong"], logits=data.student.views["strong"].logits)}
    without = terms("mlkd", replace(data, teacher=replace(data.teacher, views=strong)))
    found = terms("mlkd", data)
    changed = [key for key in found if found[key] != without[key]]
    assert changed == ["kd_loss"] and without["kd_loss"] < found["kd_loss"]


def test_temperature_must_be_positive(sample: Make) -> None:
    with pytest.raises(MethodError, match="mlkd: temperature is 0.0"):
        methods.build("mlkd", sample("classification").setting, temperature=0.0)
