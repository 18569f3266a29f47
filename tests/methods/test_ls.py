"""Standardized logits around methods on logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError
from kdbench.methods.ls import LS

Make = Callable[..., Any]
WRAPPED = [f"ls+{base}" for base in LS.wraps]


@pytest.mark.parametrize("name", [name for name in WRAPPED if name != "ls+mlkd"])  # whose correlations read logits
def test_scale_and_shift_of_logits_do_not_count(name: str, sample: Make) -> None:
    data = sample("classification")
    method = methods.build(name, data.setting)
    before = method(data.batch, data.student, data.teacher)
    changed = (replace(outputs, logits=3 * outputs.logits + 5) for outputs in (data.student, data.teacher))
    after = method(data.batch, *changed)
    assert before.keys() == after.keys()
    assert {key: value.item() for key, value in after.items()} == {
        key: pytest.approx(value.item(), rel=1e-4) for key, value in before.items()
    }


@pytest.mark.parametrize("name", WRAPPED)
def test_other_defaults_of_the_base_are_options_of_it(name: str) -> None:
    base = name.removeprefix("ls+")
    alone, wrapped = methods.resolve(base, {}), methods.resolve(name, {})
    assert alone.keys() == wrapped.keys()
    assert {key for key in alone if alone[key] != wrapped[key]} == LS.wrapped_defaults[base].keys()


def test_options_of_the_base_are_given_as_its_own(sample: Make) -> None:
    data = sample("classification")
    losses = [
        methods.build("ls+kd", data.setting, weight=weight)(data.batch, data.student, data.teacher)["kd"].item()
        for weight in (9.0, 3.0)
    ]
    assert losses[0] == pytest.approx(3 * losses[1], rel=1e-5)
    assert methods.build("ls+kd", data.setting, task_weight=1.0).task_weight == 1.0
    assert methods.build("ls+kd", data.setting).task_weight == 0.1


def test_equal_logits_of_an_image_give_finite_losses(sample: Make) -> None:
    data = sample("classification")
    data.student.logits = torch.zeros_like(data.student.logits, requires_grad=True)
    (loss,) = methods.build("ls+kd", data.setting)(data.batch, data.student, data.teacher).values()
    loss.backward()
    assert loss.isfinite() and data.student.logits.grad.isfinite().all()


def test_two_classes_and_other_bases_are_refused(sample: Make) -> None:
    setting = sample("classification").setting
    with pytest.raises(MethodError, match=r"ls\+kd needs at least 3 classes; the data has 2"):
        methods.build("ls+kd", replace(setting, num_classes=2))
    with pytest.raises(MethodError, match=r"^ls wraps ctkd, dkd, kd, mlkd, rld, not at$"):
        methods.build("ls+at", setting)
    for misspelled in ("ls+kdd", "ls+KD"):
        with pytest.raises(MethodError, match=r"Did you mean 'ls\+(kd|dkd)'"):
            methods.build(misspelled, setting)
