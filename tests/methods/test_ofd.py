"""Feature overhaul: margins, the partial distance, connectors."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench import methods
from kdbench.methods.base import MethodError
from kdbench.methods.ofd import margins, partial_distance


@pytest.fixture
def data(sample: Any) -> Any:
    return sample("classification")


def test_margin_is_the_mean_of_the_negative_part() -> None:
    norm = nn.BatchNorm2d(3)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, -1.0])
    draws = torch.randn(400_000, generator=torch.Generator().manual_seed(0)).double()
    for margin, weight, bias in zip(margins(norm), norm.weight, norm.bias, strict=True):
        x = draws * weight.item() + bias.item()
        assert margin.item() == pytest.approx(x[x < 0].mean().item(), abs=0.01)


def test_margin_of_a_channel_that_is_hardly_ever_negative_is_three_deviations() -> None:
    norm = nn.BatchNorm2d(3)
    norm.weight.data, norm.bias.data = torch.tensor([0.5, -0.5, 0.0]), torch.tensor([2.0, 2.0, -1.0])
    assert margins(norm).tolist() == pytest.approx([-1.5, -1.5, -1.0])


def test_distance_is_free_only_below_a_target_that_is_not_positive() -> None:
    pairs = [(-3.0, -1.0, 0.0), (-1.0, -1.0, 0.0), (0.5, -1.0, 2.25), (-1.0, 2.0, 9.0), (3.0, 2.0, 1.0), (-1, 0, 0.0)]
    for student, teacher, expected in pairs:
        two = torch.full((2, 1, 1, 3), float(student)), torch.full((2, 1, 1, 3), float(teacher))
        assert partial_distance(*two).item() == pytest.approx(3 * expected)


def test_loss_is_the_released_sum(data: Any) -> None:
    torch.manual_seed(0)
    method = methods.build("ofd", data.setting, weight=0.01)
    total = 0.0
    pairs = zip(*(o.extra["pre_activations"] for o in (data.student, data.teacher)), strict=True)
    for level, (s, t) in enumerate(pairs):
        norm = data.setting.teacher.norms[level]
        conv, batch_norm = method.connectors[level]
        s = F.batch_norm(F.conv2d(s, conv.weight), None, None, batch_norm.weight, batch_norm.bias, training=True)
        for c in range(t.shape[1]):
            m, d = norm.bias[c].item(), abs(norm.weight[c].item())
            below = 0.5 * math.erfc(m / d / math.sqrt(2))
            margin = -3 * d
            if below > 0.001:
                margin = m - d * math.exp(-((m / d) ** 2) / 2) / math.sqrt(2 * math.pi) / below
            own, other = s[:, c], t[:, c]
            error = (own - margin).square() * ((own > margin) & (other <= margin))
            error += (own - other).square() * ((own > other) & (other > margin) & (other <= 0))
            error += (own - other).square() * (other > 0)
            total += error.sum().item() / len(own) / 2 ** (2 - level)
    found = method(data.batch, data.student, data.teacher)["ofd"]
    assert found.item() == pytest.approx(0.01 * total, rel=1e-4)


def test_a_larger_map_of_the_teacher_is_pooled_to_the_students(data: Any) -> None:
    torch.manual_seed(0)
    method = methods.build("ofd", data.setting)
    expected = method(data.batch, data.student, data.teacher)["ofd"].item()
    doubled = tuple(F.interpolate(x, scale_factor=2) for x in data.teacher.extra["pre_activations"])
    larger = replace(data.teacher, extra={"pre_activations": doubled})
    assert method(data.batch, data.student, larger)["ofd"].item() == pytest.approx(expected, rel=1e-5)


def test_faults_are_named(data: Any) -> None:
    teacher = data.setting.teacher
    with pytest.raises(MethodError, match="has 0 norms for 3 stages"):
        methods.build("ofd", replace(data.setting, teacher=replace(teacher, norms=())))
    plain = (nn.BatchNorm2d(6, affine=False),) * 3
    with pytest.raises(MethodError, match="weight and bias of a BatchNorm"):
        methods.build("ofd", replace(data.setting, teacher=replace(teacher, norms=plain)))
    with pytest.raises(MethodError, match="0 levels of connected pre-activations"):
        methods.build("ofd", data.setting)(data.batch, replace(data.student, extra={}), data.teacher)
