"""DOT: what it takes over from its base. tests/train/test_separate_gradients.py is about its optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def test_terms_weights_and_heads_are_the_base_s(sample: Make) -> None:
    data = sample("classification")
    for base in ("kd", "dist", "ls+kd", "sskd"):
        wrapped = methods.build(f"dot+{base}", data.setting)
        alone = methods.build(base, data.setting)
        alone.load_state_dict({name.removeprefix("base."): value for name, value in wrapped.state_dict().items()})
        found, expected = (method(data.batch, data.student, data.teacher) for method in (wrapped, alone))
        assert {name: value.item() for name, value in found.items()} == {
            name: value.item() for name, value in expected.items()
        }
        assert wrapped.task_weight == alone.task_weight and wrapped.gradients == "separate"
    assert methods.build("dot+simkd", data.setting, task_weight=1.0).student_head() is not None
    assert not methods.build("dot+catkd", data.setting).student_bias
    assert methods.build("dot+wsld", data.setting, teacher_batch_statistics=True).teacher_batch_statistics
    assert not methods.build("dot+wsld", data.setting).teacher_batch_statistics
    assert methods.build("dot+kd+dist", data.setting).gradients == "separate"


def test_senseless_settings_are_refused(sample: Make) -> None:
    setting = replace(sample("classification").setting, steps_per_epoch=2)
    with pytest.raises(MethodError, match="delta is 1.0"):
        methods.build("dot+kd", setting, delta=1.0)
    for base in ("dml", "ab"):
        with pytest.raises(MethodError, match=f"{base} trains its teacher or has an initial phase"):
            methods.build(f"dot+{base}", setting)
    with pytest.raises(MethodError, match="simkd has no task loss.*give it a task_weight"):
        methods.build("dot+simkd", setting)
    with pytest.raises(
        MethodError, match=r"dot is a wrapper and needs a base: write dot\+crd or dot\+kd, or with another"
    ):
        methods.build("dot", setting)
    with pytest.raises(MethodError, match=r"^dot wraps crd, kd or any other method, not dot"):
        methods.build("dot+dot+kd", setting)
