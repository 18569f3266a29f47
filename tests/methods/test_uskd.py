"""A method without a teacher that has losses and a layer of its own."""

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
    torch.manual_seed(0)
    losses: dict[str, torch.Tensor] = methods.build("uskd", data.setting, **options)(
        data.batch, data.student, data.teacher
    )
    return losses


def test_reads_no_teacher(sample: Make) -> None:
    data = sample("classification")
    assert methods.teacher_mode("uskd", methods.resolve("uskd", {})) == "none"
    assert terms(data) == terms(replace(data, teacher=data.student))


def test_a_sum_without_a_teacher_needs_none(sample: Make) -> None:
    setting = sample("classification").setting
    assert not methods.build("none+uskd", setting).needs_teacher
    assert methods.build("kd+uskd", setting).needs_teacher


def test_the_weak_logits_learn_the_labels(sample: Make) -> None:
    data = sample("classification")
    torch.manual_seed(0)
    method = methods.build("uskd", data.setting, mu=1.0)
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    for _ in range(100):
        weak = method(data.batch, data.student, data.teacher)["weak"]
        optimizer.zero_grad()
        weak.backward()
        optimizer.step()
    predicted = method.weak(data.student.features[-2].mean(dim=(2, 3))).argmax(dim=1)
    assert torch.equal(predicted, data.batch.targets)


def test_what_it_cannot_train_is_refused(sample: Make) -> None:
    data = sample("classification")
    one_map = replace(data.setting.student, channels=(4,))
    with pytest.raises(MethodError, match="reads the last feature but one, and the student has 1"):
        methods.build("uskd", replace(data.setting, student=one_map))
    with pytest.raises(MethodError, match=r"uskd: targets have shape \(4, 5\) for 4 images"):
        terms(replace(data, batch=replace(data.batch, targets=torch.rand(4, 5))))
