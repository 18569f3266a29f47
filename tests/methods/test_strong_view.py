"""A method on logits that reads a strong view of each image as well."""

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


def terms(name: str, data: Any, **options: Any) -> dict[str, float]:
    found = methods.build(name, data.setting, **options)(data.batch, data.student, data.teacher)
    return {key: value.item() for key, value in found.items()}


def test_asks_for_the_view_that_mlkd_reads_in_a_forward_of_its_own() -> None:
    assert methods.views("strong_view+kd") == methods.views("mlkd")
    assert not methods.joint_views("strong_view+kd")


def test_both_views_have_the_base_method_and_a_cross_entropy_of_one_weight(sample: Make) -> None:
    data = sample("classification")
    strong = replace(data, student=data.student.views["strong"], teacher=data.teacher.views["strong"])
    found = terms("strong_view+kd", data, weight=0.7, temperature=3.0, task_weight=0.2)
    same = {"weight": 0.7, "temperature": 3.0, "task_weight": 0.2}
    labels = 0.2 * F.cross_entropy(strong.student.logits, data.batch.targets).item()
    assert found == {
        "kd": terms("kd", data, **same)["kd"],
        "strong_kd": terms("kd", strong, **same)["kd"],
        "strong_cross_entropy": pytest.approx(labels),
    }
    assert methods.build("strong_view+kd", data.setting).task_weight == 0.1


def test_the_student_learns_from_both_views(sample: Make) -> None:
    data = sample("classification")
    views = [data.student.logits, data.student.views["strong"].logits]
    for logits in views:
        logits.requires_grad_()
    method = methods.build("strong_view+dkd", data.setting)
    torch.stack(list(method(data.batch, data.student, data.teacher).values())).sum().backward()
    assert all(logits.grad is not None and logits.grad.abs().sum() > 0 for logits in views)


def test_a_method_that_reads_more_than_logits_cannot_be_wrapped() -> None:
    with pytest.raises(MethodError, match="^strong_view wraps dist, dkd, kd, not at$"):
        methods.resolve("strong_view+at", {})
