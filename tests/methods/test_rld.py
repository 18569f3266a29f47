"""Refined logits: what of the teacher contradicts the label is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def terms(data: Any, **options: Any) -> dict[str, torch.Tensor]:
    method = methods.build("rld", data.setting, **({"warmup_epochs": 0} | options))
    losses: dict[str, torch.Tensor] = method(data.batch, data.student, data.teacher)
    return losses


def taught(data: Any, rows: list[list[float]], labels: list[int]) -> Any:
    """The sample with other logits of the teacher and other labels."""
    teacher = replace(data.teacher, logits=torch.tensor(rows))
    return replace(data, teacher=teacher, batch=replace(data.batch, targets=torch.tensor(labels)))


def test_classes_that_the_teacher_ranks_above_the_label_have_no_gradient(sample: Make) -> None:
    data = taught(sample("classification"), [[5.0, 4.0, 3.0, 2.0, 1.0]] * 4, [2, 2, 2, 2])
    terms(data)["mcd"].backward()
    used = data.student.logits.grad.abs() > 1e-8
    assert used.tolist() == [[False, False, False, True, True]] * 4


def test_a_label_that_the_teacher_ranks_last_leaves_no_class(sample: Make) -> None:
    data = taught(sample("classification"), [[5.0, 4.0, 3.0, 2.0, 1.0]] * 4, [4, 4, 4, 4])
    mcd = terms(data)["mcd"]
    mcd.backward()
    assert mcd.item() == pytest.approx(0, abs=1e-6) and not data.student.logits.grad.any()


def test_the_students_label_takes_the_teachers_top_confidence(sample: Make) -> None:
    data = sample("classification")
    logits = torch.tensor([[3.0, 1.0, 0.0, 0.0, 0.0]] * 4)
    swapped = logits[:, [1, 0, 2, 3, 4]]
    data.student.logits = swapped  # as sure of class 1 as the teacher is of class 0
    wrong = taught(data, logits.tolist(), [1, 1, 1, 1])
    assert terms(wrong)["scd"].item() == pytest.approx(0, abs=1e-5)


def test_temperatures(sample: Make) -> None:
    data = sample("classification")
    same, other = terms(data, temperature=3.0), terms(data, temperature=3.0, alpha_temperature=1.0)
    assert same["mcd"] == other["mcd"] and same["scd"].item() != pytest.approx(other["scd"].item(), rel=0.05)
    assert same["scd"] == terms(data, temperature=9.0, alpha_temperature=3.0)["scd"]


def test_senseless_settings_are_refused(sample: Make) -> None:
    setting = sample("classification").setting
    with pytest.raises(MethodError, match=r"rld: alpha_temperature is -1\.0; it must be positive"):
        methods.build("rld", setting, alpha_temperature=-1.0)
    with pytest.raises(MethodError, match="rld: warmup_epochs is -1"):
        methods.build("rld", setting, warmup_epochs=-1)
