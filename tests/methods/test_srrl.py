"""SRRL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def test_the_teacher_s_classifier_passes_gradients_on_and_stays_as_it_is(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("srrl", data.setting)
    method(data.batch, data.student, data.teacher)["regression"].backward()
    assert data.student.extra["last_map"].grad.abs().sum() > 0
    classifier = data.setting.teacher.classifier
    assert not any(parameter is own for parameter in classifier.parameters() for own in method.parameters())
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_weight_is_that_of_the_regression(sample: Make) -> None:
    data = sample("classification")
    terms = []
    for weight in (1.0, 5.0):
        torch.manual_seed(0)
        terms.append(methods.build("srrl", data.setting, weight=weight)(data.batch, data.student, data.teacher))
    assert terms[1]["regression"].item() == pytest.approx(5 * terms[0]["regression"].item())
    assert terms[1]["statistics"].item() == terms[0]["statistics"].item()


def test_networks_without_a_last_map_or_a_classifier_are_refused(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("srrl", data.setting)
    with pytest.raises(MethodError, match=r"the teacher has none \(a ViT"):
        method(data.batch, data.student, replace(data.teacher, extra={}))
    nameless = replace(data.setting, teacher=replace(data.setting.teacher, classifier=None))
    with pytest.raises(MethodError, match="needs the teacher's final linear layer"):
        methods.build("srrl", nameless)
