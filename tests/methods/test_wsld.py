"""Soft labels that weigh less where the student needs them less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def test_an_image_that_the_student_classifies_perfectly_does_not_count(sample: Make) -> None:
    data = sample("classification")
    one_hot = F.one_hot(data.batch.targets, 5)
    data.student.logits = (40.0 * one_hot).requires_grad_()
    (loss,) = methods.build("wsld", data.setting)(data.batch, data.student, data.teacher).values()
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and not data.student.logits.grad.any()


def test_an_image_that_the_teacher_classifies_perfectly_counts_fully(sample: Make) -> None:
    data = sample("classification")
    data.teacher.logits = 40.0 * F.one_hot(data.batch.targets, 5)
    (loss,) = methods.build("wsld", data.setting, weight=1.0)(data.batch, data.student, data.teacher).values()
    soft = F.cross_entropy(data.student.logits / 2, F.softmax(data.teacher.logits / 2, dim=1))
    assert loss.item() == pytest.approx(4 * soft.item(), rel=1e-5)


def test_mixed_labels_and_a_temperature_of_zero_are_refused(sample: Make) -> None:
    data = sample("classification")
    with pytest.raises(MethodError, match=r"wsld: temperature is 0\.0; it must be positive"):
        methods.build("wsld", data.setting, temperature=0.0)
    mixed = replace(data.batch, targets=torch.rand(4, 5))
    with pytest.raises(MethodError, match=r"wsld: targets have shape \(4, 5\) for 4 images"):
        methods.build("wsld", data.setting)(mixed, data.student, data.teacher)


def test_the_teachers_batchnorm_counts_the_batch_if_asked_for_also_in_a_sum(sample: Make) -> None:
    setting = sample("classification").setting
    assert not methods.build("wsld", setting).teacher_batch_statistics
    assert methods.build("wsld", setting, teacher_batch_statistics=True).teacher_batch_statistics
    assert not methods.build("wsld+cwd", setting).teacher_batch_statistics
    assert methods.build("wsld+cwd", setting, wsld={"teacher_batch_statistics": True}).teacher_batch_statistics
