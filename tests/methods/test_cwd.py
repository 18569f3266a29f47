"""Channel-wise distillation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import methods
from methods.base import MethodError


def loss(data: Any, student: Any, **options: Any) -> float:
    method = methods.build("cwd", data.setting, align=None, **options)
    return method(data.batch, student, data.teacher)["cwd"].item()


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_is_the_mean_divergence_of_the_channels_summed_over_levels(plain: Any, tau: float) -> None:
    expected = 0.0
    for student, teacher in zip(plain.student.features, plain.teacher.features, strict=True):
        p, q = (f.flatten(0, 1).flatten(1).div(tau).softmax(dim=1) for f in (student, teacher))
        expected += tau**2 * (q * (q / p).log()).sum(dim=1).mean().item()
    assert loss(plain, plain.student, tau=tau) == pytest.approx(expected, rel=1e-5)
    assert loss(plain, plain.student, tau=tau, weight=7.5) == pytest.approx(7.5 * expected, rel=1e-5)


def test_a_shift_of_whole_channels_costs_nothing_and_a_scale_does(plain: Any) -> None:
    shifted = replace(plain.teacher, features=tuple(f + 3 for f in plain.teacher.features))
    scaled = replace(plain.teacher, features=tuple(f * 3 for f in plain.teacher.features))
    assert loss(plain, shifted) == pytest.approx(0, abs=1e-5)
    assert loss(plain, scaled) > 0.1


def test_tau_must_be_positive(plain: Any) -> None:
    with pytest.raises(MethodError, match="tau is 0"):
        methods.build("cwd", plain.setting, tau=0)
