"""Singular vectors of neighboring stages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError
from kdbench.methods.kdsvd import _chosen

Make = Callable[..., Any]


def loss(data: Any, **options: Any) -> float:
    (value,) = methods.build("kdsvd", data.setting, **options)(data.batch, data.student, data.teacher).values()
    return float(value.item())


@pytest.mark.parametrize("vectors", ["width", "channels"])
def test_equal_features_have_no_loss_whatever_their_scale(vectors: str, equal_widths: Any) -> None:
    data = equal_widths
    scaled = replace(data.teacher, features=tuple(3 * each for each in data.student.features))
    assert loss(replace(data, teacher=scaled), vectors=vectors) == pytest.approx(0, abs=1e-6)
    assert loss(data, vectors=vectors) > 1e-3


def test_the_sign_of_a_teachers_vector_does_not_count(sample: Make) -> None:
    data = sample("classification")
    stem, first, *others = data.teacher.features
    flipped = replace(data.teacher, features=(stem, -first, *others))
    assert loss(replace(data, teacher=flipped)) == pytest.approx(loss(data), rel=1e-4)


def test_gradients_are_finite_where_a_map_is_zero_or_all_singular_values_are_equal(sample: Make) -> None:
    data = sample("classification")
    _, first, second, last = data.student.features
    with torch.no_grad():
        first.zero_()
        second.copy_(torch.eye(4).expand_as(second))
    (value,) = methods.build("kdsvd", data.setting)(data.batch, data.student, data.teacher).values()
    gradients = torch.autograd.grad(value, [first, second, last])
    assert all(gradient.isfinite().all() for gradient in gradients) and gradients[2].any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_maps_that_are_not_finite_are_a_divergence_and_no_failure_of_the_library(value: float, sample: Make) -> None:
    data = sample("classification")
    with torch.no_grad():
        data.student.features[1][0, 0, 0, 0] = value
    with pytest.raises(FloatingPointError, match="kdsvd: a stage's map, or its square, is NaN or infinite"):
        loss(data)


def test_the_gradient_is_that_of_a_singular_vector() -> None:
    matrices = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    target = torch.eye(5, dtype=torch.float64)[:3]
    assert torch.autograd.gradcheck(lambda m: _chosen(m, target), [matrices])


def test_what_it_cannot_compare_is_refused(sample: Make) -> None:
    data = sample("classification")
    with pytest.raises(MethodError, match="vectors is 'height'"):
        methods.build("kdsvd", data.setting, vectors="height")
    with pytest.raises(MethodError, match="vectors is 'channels' and the channels of student and teacher are"):
        methods.build("kdsvd", data.setting, vectors="channels")
    single = replace(data.setting.student, channels=(4, 8))
    with pytest.raises(MethodError, match="the networks have one stage"):
        methods.build("kdsvd", replace(data.setting, student=single, teacher=single))
    narrow = tuple(torch.nn.functional.avg_pool2d(each, 2) for each in data.teacher.features)
    with pytest.raises(MethodError, match="width 8 in the student and 4 in the teacher"):
        loss(replace(data, teacher=replace(data.teacher, features=narrow)))
