"""Soft targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdbench import methods
from kdbench.methods.base import IGNORE_INDEX, MethodError
from kdbench.methods.functional import kl_divergence

Make = Callable[..., Any]


def test_is_the_classic_combination_by_default(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("kd", data.setting)
    assert method.task_weight == 0.1
    own, other = ((outputs.logits / 4).softmax(dim=1) for outputs in (data.student, data.teacher))
    expected = 0.9 * 16 * (other * (other / own).log()).sum(dim=1).mean()
    assert method(data.batch, data.student, data.teacher)["kd"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_segmentation_is_the_mean_over_pixels(sample: Make) -> None:
    data = sample("segmentation")
    method = methods.build("kd", data.setting, weight=1.0, task_weight=1.0, temperature=1.0)
    own, other = (outputs.logits.movedim(1, -1).flatten(0, 2) for outputs in (data.student, data.teacher))
    expected = F.kl_div(own.log_softmax(dim=1), other.softmax(dim=1), reduction="batchmean")
    assert method(data.batch, data.student, data.teacher)["kd"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert method.task_weight == 1


def test_segmentation_counts_void_pixels_too(sample: Make) -> None:
    data = sample("segmentation")
    method = methods.build("kd", data.setting, weight=1.0, task_weight=1.0, temperature=1.0)
    before = method(data.batch, data.student, data.teacher)["kd"]
    data.batch.targets[:] = IGNORE_INDEX
    assert method(data.batch, data.student, data.teacher)["kd"] == before


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_shifted_logits_cost_nothing(kind: str, sample: Make) -> None:
    data = sample(kind)
    shifted = replace(data.teacher, logits=data.student.logits + 3)
    loss = methods.build("kd", data.setting)(data.batch, data.student, shifted)["kd"]
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_confident_logits_stay_finite(sample: Make) -> None:
    data = sample("classification")
    data.student.logits = torch.tensor([[1e4, 0, 0, 0, 0]] * 4, requires_grad=True)
    data.teacher.logits = torch.tensor([[0, 1e4, 0, 0, 0]] * 4)
    loss = methods.build("kd", data.setting, temperature=1.0)(data.batch, data.student, data.teacher)["kd"]
    loss.backward()
    assert loss.item() == pytest.approx(9e3)
    assert data.student.logits.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_positive(temperature: float, sample: Make) -> None:
    with pytest.raises(MethodError, match=f"temperature is {temperature}; it must be positive"):
        methods.build("kd", sample("classification").setting, temperature=temperature)


def test_networks_must_agree_on_the_logits(sample: Make) -> None:
    data, detector = sample("classification"), sample("dense")
    method = methods.build("kd", data.setting)
    with pytest.raises(MethodError, match=r"logits have shape \(4, 5\) and the teacher's \(4, 4\)"):
        method(data.batch, data.student, replace(data.teacher, logits=data.teacher.logits[:, 1:]))
    with pytest.raises(MethodError, match="one tensor of logits"):
        method(data.batch, data.student, detector.teacher)


def test_the_target_of_the_divergence_gets_no_gradient() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    kl_divergence(student, teacher, 2.0).backward()
    # d/ds of T^2 KL(q || p) is T (p - q) / N.
    expected = 2 * ((student / 2).softmax(dim=1) - (teacher / 2).softmax(dim=1)) / 4
    assert teacher.grad is None
    assert torch.allclose(student.grad, expected, atol=1e-6)
