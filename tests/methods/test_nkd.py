"""Normalized KD: the target and the other classes, each with its own cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def terms(data: Any, **options: Any) -> dict[str, float]:
    losses = methods.build("nkd", data.setting, **options)(data.batch, data.student, data.teacher)
    return {name: value.item() for name, value in losses.items()}


def test_the_target_term_has_no_temperature(sample: Make) -> None:
    data = sample("classification")
    low, high = terms(data), terms(data, temperature=4.0)
    assert low["target"] == high["target"] and low["non_target"] != pytest.approx(high["non_target"], rel=0.1)


def test_weights(sample: Make) -> None:
    data = sample("classification")
    one, other = terms(data, gamma=1.0), terms(data, gamma=2.0, weight=3.0)
    assert other["target"] == pytest.approx(3 * one["target"]) and other["non_target"] == pytest.approx(
        6 * one["non_target"]
    )


def test_the_largest_share_of_a_mixed_label_is_the_target(sample: Make) -> None:
    data = sample("classification")
    mixed = 0.7 * torch.nn.functional.one_hot(data.batch.targets, 5) + 0.06
    assert terms(replace(data, batch=replace(data.batch, targets=mixed))) == terms(data)


def test_senseless_settings_are_refused(sample: Make) -> None:
    setting = sample("classification").setting
    with pytest.raises(MethodError, match=r"nkd: temperature is 0\.0; it must be positive"):
        methods.build("nkd", setting, temperature=0.0)
    with pytest.raises(MethodError, match="nkd needs at least 3 classes; the data has 2"):
        methods.build("nkd", replace(setting, num_classes=2))
