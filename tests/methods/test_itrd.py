"""Correlations and Gram matrices of pooled features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def test_a_perfect_match_is_the_least_correlation_and_has_no_mutual_term(equal_widths: Any) -> None:
    data = equal_widths
    method = methods.build("itrd", data.setting, lambda_corr=1.0, alpha=1.0)
    method.embed.weight.data.copy_(torch.eye(24))
    method.embed.bias.data.zero_()
    same = method(data.batch, data.student, replace(data.teacher, pooled=data.student.pooled))
    # Of 4 images a match has the correlation 3/4, in each of 24 dimensions.
    assert same["correlation"].item() == pytest.approx(torch.tensor(24 / 16).log2().item(), rel=1e-4)
    other = method(data.batch, data.student, data.teacher)
    assert other["correlation"] > same["correlation"]


def test_dead_dimensions_of_the_teacher_have_no_gradient_and_are_finite(sample: Make) -> None:
    data = sample("classification")
    data.teacher.pooled = data.teacher.pooled.detach().clone()
    data.teacher.pooled[:, :5] = 0
    method = methods.build("itrd", data.setting, lambda_mutual=0.0)
    torch.stack(list(method(data.batch, data.student, data.teacher).values())).sum().backward()
    gradient = method.embed.weight.grad
    assert gradient.isfinite().all() and not gradient[:5].any() and gradient[5:].any(dim=1).all()


def test_features_that_are_all_dead_give_finite_losses_and_gradients(equal_widths: Any) -> None:
    data = equal_widths
    pooled = torch.zeros_like(data.student.pooled).requires_grad_()
    method = methods.build("itrd", data.setting)
    terms = method(data.batch, replace(data.student, pooled=pooled), data.teacher)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert total.isfinite() and pooled.grad is not None and pooled.grad.isfinite().all()


def test_what_it_cannot_compare_is_refused(sample: Make) -> None:
    data = sample("classification")
    with pytest.raises(MethodError, match="the pooled_dim of a network is unknown"):
        methods.build("itrd", replace(data.setting, teacher=replace(data.setting.teacher, pooled_dim=None)))
    with pytest.raises(MethodError, match=r"itrd: alpha is 0\.0; it must be positive"):
        methods.build("itrd", data.setting, alpha=0.0)
    student, teacher = (replace(outputs, pooled=outputs.pooled[:1]) for outputs in (data.student, data.teacher))
    with pytest.raises(MethodError, match="a batch has one image and no deviation"):
        methods.build("itrd", data.setting)(data.batch, student, teacher)
