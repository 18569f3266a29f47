"""Attentive features: the weighted distance, what it does not see, faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError


def build(data: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return methods.build("afd", data.setting, **options)


def loss(method: Any, data: Any, **changed: Any) -> float:
    data = replace(data, **changed)
    return method(data.batch, data.student, data.teacher)["afd"].item()


def test_loss_is_the_mean_over_stages_of_weighted_squared_errors(equal_widths: Any) -> None:
    method = build(equal_widths, weight=6.0, att_f=0.5)
    total = 0.0
    for level, (s, t) in enumerate(
        zip(equal_widths.student.features[1:], equal_widths.teacher.features[1:], strict=True)
    ):
        first, _, second = method.attention[level]
        assert first.out_features == t.shape[1] // 2
        for own, other in zip(s, t, strict=True):
            score = torch.sigmoid(second(torch.relu(first(other.mean(dim=(1, 2))))))
            for c in range(len(own)):
                error = (own[c] / own[c].norm() - other[c] / other[c].norm()).square().mean()
                total += (score[c] / score.sum() * error).item() / len(s)
    assert loss(method, equal_widths) == pytest.approx(6 * total / 3, rel=1e-4)


def test_a_channels_scale_is_not_seen_and_its_own_pattern_costs_nothing(equal_widths: Any) -> None:
    method = build(equal_widths)
    twice = replace(equal_widths.student, features=tuple(2 * x for x in equal_widths.student.features))
    assert loss(method, equal_widths, student=twice) == pytest.approx(loss(method, equal_widths), rel=1e-5)
    assert loss(method, equal_widths, student=equal_widths.teacher) == 0
    assert loss(method, equal_widths) > 0


def test_equal_widths_are_compared_as_they_are(equal_widths: Any, sample: Any) -> None:
    assert not list(build(equal_widths).align.parameters())
    assert loss(build(equal_widths), equal_widths) == loss(build(equal_widths, align=None), equal_widths)
    assert len(list(build(sample("classification")).align.parameters())) == 6


def test_dead_channels_keep_loss_and_gradient_finite(equal_widths: Any) -> None:
    dead = [torch.zeros_like(feature).requires_grad_() for feature in equal_widths.student.features]
    data = replace(equal_widths, student=replace(equal_widths.student, features=tuple(dead)))
    build(equal_widths)(data.batch, data.student, data.teacher)["afd"].backward()
    assert all(feature.grad.isfinite().all() for feature in dead[1:])


def test_faults_are_named(sample: Any, equal_widths: Any) -> None:
    with pytest.raises(MethodError, match="align is null but widths differ"):
        build(sample("classification"), align=None)
    with pytest.raises(MethodError, match="align is 'conv'"):
        build(equal_widths, align="conv")
    with pytest.raises(MethodError, match="att_f is 0.01"):
        build(equal_widths, att_f=0.01)
    with pytest.raises(MethodError, match="features|stages"):
        loss(build(equal_widths), equal_widths, student=replace(equal_widths.student, features=()))
