"""CAT-KD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def loss(data: Any, **options: Any) -> float:
    method = methods.build("catkd", data.setting, **options)
    return float(method(data.batch, data.student, data.teacher)["catkd"].item())


def test_normalised_maps_do_not_depend_on_the_scale_of_a_network(sample: Make) -> None:
    data = sample("classification")
    larger = replace(data, teacher=replace(data.teacher, extra={"last_map": 7 * data.teacher.extra["last_map"]}))
    assert loss(larger) == pytest.approx(loss(data), rel=1e-5)
    assert loss(larger, normalise=False) > 2 * loss(data, normalise=False)


def test_at_resolution_1_it_compares_logits_without_bias(sample: Make) -> None:
    data = sample("classification")
    logits = []
    for who in ("student", "teacher"):
        outputs, info = getattr(data, who), getattr(data.setting, who)
        logits.append(outputs.extra["last_map"].mean((2, 3)) @ info.classifier.weight.T)
    expected = 3 * (logits[0] - logits[1]).square().mean().item()
    assert loss(data, weight=3.0, resolution=1, normalise=False) == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_the_student_s_classifier_and_not_the_teacher_s(sample: Make) -> None:
    data = sample("classification")
    data.setting.student.classifier.requires_grad_(True)
    method = methods.build("catkd", data.setting)
    method(data.batch, data.student, data.teacher)["catkd"].backward()
    assert data.setting.student.classifier.weight.grad.abs().sum() > 0
    assert data.setting.teacher.classifier.weight.grad is None


def test_the_student_has_no_bias_in_sums_too(sample: Make) -> None:
    setting = sample("classification").setting
    assert not methods.build("catkd", setting).student_bias
    assert not methods.build("catkd+crd", setting, crd={"negatives": 4}).student_bias
    assert methods.build("kd", setting).student_bias


def test_senseless_settings_are_refused(sample: Make) -> None:
    data = sample("classification")
    for resolution in (0, 10**9):
        with pytest.raises(MethodError, match=f"resolution is {resolution}; it must be from 1 to 64"):
            methods.build("catkd", data.setting, resolution=resolution)
    with pytest.raises(MethodError, match="the student has none"):
        loss(replace(data, student=replace(data.student, extra={"last_map": ()})))
