"""Temperatures by the largest logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def test_equal_largest_logits_make_it_kd(sample: Make) -> None:
    data = sample("classification")
    for outputs in (data.student, data.teacher):
        outputs.logits = (outputs.logits - outputs.logits.amax(dim=1, keepdim=True) + 4).detach()
    losses = methods.build("dtkd", data.setting, alpha=1.0, warmup_epochs=0)(data.batch, data.student, data.teacher)
    assert losses["dynamic"].item() == pytest.approx(losses["kd"].item(), rel=1e-4)


def test_warms_up_and_weighs_its_terms(sample: Make) -> None:
    data = sample("classification")

    def terms(epoch: int, **options: Any) -> dict[str, float]:
        method = methods.build("dtkd", data.setting, **options)
        method.set_progress(epoch, 1)
        return {name: value.item() for name, value in method(data.batch, data.student, data.teacher).items()}

    full = terms(30)
    assert terms(4) == pytest.approx({name: value / 4 for name, value in full.items()}, rel=1e-5)
    heavier = terms(30, alpha=6.0, beta=3.0)
    assert heavier == pytest.approx({"dynamic": 2 * full["dynamic"], "kd": 3 * full["kd"]}, rel=1e-5)


def test_senseless_settings_are_refused(sample: Make) -> None:
    setting = sample("classification").setting
    with pytest.raises(MethodError, match=r"dtkd: temperature is 0\.0; it must be positive"):
        methods.build("dtkd", setting, temperature=0.0)
    with pytest.raises(MethodError, match="dtkd: warmup_epochs is -1"):
        methods.build("dtkd", setting, warmup_epochs=-1)
