"""Variational information distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError, NetworkInfo
from kdbench.methods.vid import EPS, Predictor

Make = Callable[..., Any]


def test_variances_start_where_they_are_told_and_stay_positive() -> None:
    assert torch.allclose(Predictor(2, 3, 5.0).variance(), torch.full((3,), 5.0))
    assert torch.allclose(Predictor(2, 3, 500.0).variance(), torch.full((3,), 500.0))
    predictor = Predictor(2, 3, 5.0)
    torch.nn.init.constant_(predictor.log_scale, -1e4)
    assert torch.equal(predictor.variance(), torch.full((3,), EPS))


def test_is_the_negative_log_likelihood_of_a_gaussian(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("vid", data.setting, weight=2.0)
    expected = torch.zeros(())
    for predictor, own, other in zip(
        method.predictors, data.student.features[1:], data.teacher.features[1:], strict=True
    ):
        variance = predictor.variance()[:, None, None].expand_as(other)
        expected = expected + torch.nn.functional.gaussian_nll_loss(predictor.mean(own), other, variance)
    loss = method(data.batch, data.student, data.teacher)["vid"]
    assert loss.item() == pytest.approx(2 * expected.item(), rel=1e-5)
    assert data.student.features[0].grad is None


def test_three_convolutions_of_the_teachers_width_without_biases(sample: Make) -> None:
    method = methods.build("vid", sample("classification").setting)
    shapes = [tuple(parameter.shape) for parameter in method.predictors[1].parameters()]
    assert shapes == [(12,), (12, 8, 1, 1), (12, 12, 1, 1), (12, 12, 1, 1)]


def test_variances_learn(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("vid", data.setting)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    first = method(data.batch, data.student, data.teacher)["vid"]
    first.backward()
    optimizer.step()
    # The squared error of random maps is near 1, so a variance of 5 is too large.
    assert all((predictor.variance() < 5).all() for predictor in method.predictors)
    assert method(data.batch, data.student, data.teacher)["vid"] < first


def test_the_larger_map_is_pooled_to_the_smaller(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("vid", data.setting)
    enlarged = tuple(map_.repeat_interleave(2, 2).repeat_interleave(2, 3) for map_ in data.student.features)
    loss = method(data.batch, replace(data.student, features=enlarged), data.teacher)["vid"]
    assert loss.item() == pytest.approx(method(data.batch, data.student, data.teacher)["vid"].item(), rel=1e-5)


def test_senseless_settings_are_refused(sample: Make) -> None:
    setting = sample("classification").setting
    with pytest.raises(MethodError, match="init_pred_var is 0.0; it must be above 1e-05"):
        methods.build("vid", setting, init_pred_var=0.0)
    with pytest.raises(MethodError, match="3 stages after its stem and the teacher 1"):
        methods.build("vid", replace(setting, teacher=NetworkInfo((6, 6), (1, 1), 6)))
    with pytest.raises(MethodError, match="0 stages after its stem and the teacher 0"):
        methods.build("vid", replace(setting, student=NetworkInfo((6,)), teacher=NetworkInfo((6,))))
