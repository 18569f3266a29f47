"""KD taken apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError
from kdbench.methods.functional import kl_divergence

Make = Callable[..., Any]


def terms(data: Any, **options: Any) -> dict[str, Tensor]:
    method = methods.build("dkd", data.setting, **({"warmup_epochs": 0} | options))
    losses: dict[str, Tensor] = method(data.batch, data.student, data.teacher)
    return losses


def test_parts_weighed_by_the_teachers_doubt_make_up_kd(sample: Make) -> None:
    data = sample("classification")
    # With equal targets, KD of an image is tckd + (1 - p_y(teacher)) * nckd.
    for image in range(4):
        one = replace(
            data,
            batch=replace(data.batch, targets=data.batch.targets[image : image + 1]),
            student=replace(data.student, logits=data.student.logits[image : image + 1]),
            teacher=replace(data.teacher, logits=data.teacher.logits[image : image + 1]),
        )
        parts = terms(one, beta=1.0)
        doubt = 1 - (one.teacher.logits / 4).softmax(dim=1)[0, one.batch.targets[0]]
        expected = kl_divergence(one.student.logits, one.teacher.logits, 4.0)
        assert (parts["tckd"] + doubt * parts["nckd"]).item() == pytest.approx(expected.item(), rel=1e-4)


def test_is_zero_for_equal_logits(sample: Make) -> None:
    data = sample("classification")
    same = terms(replace(data, teacher=data.student))
    assert all(term.item() == pytest.approx(0, abs=1e-5) for term in same.values())
    assert all(term.item() > 0.1 for term in terms(data).values())


def test_parts_change_apart(sample: Make) -> None:
    data = sample("classification")
    one_hot = torch.nn.functional.one_hot(data.batch.targets, 5)
    surer = replace(data, student=replace(data.student, logits=data.student.logits + 2 * one_hot))
    assert terms(surer)["nckd"].item() == pytest.approx(terms(data)["nckd"].item(), rel=1e-5)
    assert terms(surer)["tckd"].item() != pytest.approx(terms(data)["tckd"].item(), rel=0.1)
    heavier = terms(data, weight=2.0, alpha=3.0, beta=4.0)
    assert heavier["tckd"].item() == pytest.approx(6 * terms(data)["tckd"].item(), rel=1e-5)
    assert heavier["nckd"].item() == pytest.approx(terms(data)["nckd"].item(), rel=1e-5)


def test_warms_up_by_the_epochs_of_the_training(sample: Make) -> None:
    data = sample("classification")
    full = terms(data)["nckd"].item()
    method = methods.build("dkd", data.setting, warmup_epochs=3)
    factors = []
    for step in range(20):
        method.set_progress(step, 5)
        for _ in range(2):  # forwards do not count: a step may have several
            factor = method(data.batch, data.student, data.teacher)["nckd"].item() / full
        factors.append(factor)
    assert factors == pytest.approx([1 / 3] * 5 + [2 / 3] * 5 + [1] * 10, rel=1e-5)


def test_confident_logits_stay_finite(sample: Make) -> None:
    data = sample("classification")
    data.student.logits = torch.tensor([[1e4, 0, 0, 0, 0]] * 4, requires_grad=True)
    data.teacher.logits = torch.tensor([[0, 1e4, 0, 0, 0]] * 4)
    losses = terms(data, temperature=1.0)
    torch.stack(list(losses.values())).sum().backward()
    assert all(term.isfinite() for term in losses.values())
    assert data.student.logits.grad.isfinite().all()


def test_two_classes_are_refused_before_training(sample: Make) -> None:
    with pytest.raises(MethodError, match="dkd needs at least 3 classes; the data has 2"):
        methods.build("dkd", replace(sample("classification").setting, num_classes=2))


def test_senseless_settings_are_refused(sample: Make) -> None:
    data = sample("classification")
    with pytest.raises(MethodError, match="warmup_epochs is -1"):
        methods.build("dkd", data.setting, warmup_epochs=-1)
    with pytest.raises(MethodError, match="temperature is 0.0"):
        methods.build("dkd", data.setting, temperature=0.0)
    with pytest.raises(MethodError, match=r"targets have shape \(4, 5\) for 4 images"):
        terms(replace(data, batch=replace(data.batch, targets=torch.rand(4, 5))))
