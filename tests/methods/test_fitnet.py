"""Hints on one feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from kdbench import methods
from kdbench.methods.base import MethodError, NetworkInfo

Make = Callable[..., Any]


def test_is_the_squared_error_of_the_regressed_second_stage(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("fitnet", data.setting)
    conv, norm = method.regressor[0], method.regressor[1]
    assert tuple(conv.weight.shape) == (12, 8, 1, 1)
    regressed = norm(conv(data.student.features[2])).relu()
    expected = 100 * (regressed - data.teacher.features[2]).square().mean()
    assert method(data.batch, data.student, data.teacher)["fitnet"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "kind", "kernel"),
    [(4, 2, nn.Conv2d, 1), (8, 1, nn.Conv2d, 3), (2, 4, nn.ConvTranspose2d, 4)],
)
def test_the_regressor_follows_the_ratio_of_sizes(
    size: int, stride: int, kind: type[nn.Module], kernel: int, sample: Make
) -> None:
    data = sample("classification")
    info = NetworkInfo((4, 4, 8, 16), (1, 1, stride, 4), 16)
    method = methods.build("fitnet", replace(data.setting, student=info))
    assert isinstance(method.regressor[0], kind)
    assert method.regressor[0].kernel_size == (kernel, kernel)
    features = torch.randn(4, 8, size, size, requires_grad=True)
    loss = method(data.batch, replace(data.student, features=(features,) * 4), data.teacher)["fitnet"]
    loss.backward()
    assert features.grad is not None and features.grad.any()
    assert method.regressor(features).shape == data.teacher.features[2].shape


def test_other_ratios_are_refused(sample: Make) -> None:
    setting = replace(sample("classification").setting, student=NetworkInfo((4, 4, 8, 16), (1, 1, 8, 8), 16))
    with pytest.raises(MethodError, match="feature 2 has stride 8 in the student and 2 in the teacher"):
        methods.build("fitnet", setting)


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_hint_layer_must_exist(layer: int, sample: Make) -> None:
    with pytest.raises(MethodError, match=f"hint_layer is {layer}, but the student has 4 features"):
        methods.build("fitnet", sample("classification").setting, hint_layer=layer)


def test_strides_must_be_known(sample: Make) -> None:
    setting = replace(sample("classification").setting, teacher=NetworkInfo((6, 6, 12, 24)))
    with pytest.raises(MethodError, match="the teacher has 0 features with known strides"):
        methods.build("fitnet", setting)
