"""Correlation of neighbouring differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError, NetworkInfo
from kdbench.methods.cc import congruence

Make = Callable[..., Any]


def test_worked_example() -> None:
    student = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.0, 2.0], [2.0, 1.0], [4.0, -1.0]])
    # Differences (1, 2), (0, 2), (4, 2): the products of neighbours sum to 4 and 4.
    assert congruence(student, teacher).item() == 4
    assert congruence(teacher, student).item() == 4


def test_is_zero_for_equal_embeddings_and_for_a_single_image() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(4, 3, requires_grad=True)
    assert congruence(embedding, embedding.detach()).item() == 0
    single = congruence(embedding[:1], torch.ones(1, 3))
    single.backward()
    assert single.item() == 0
    assert embedding.grad is not None and not embedding.grad.any()


def test_both_embeddings_train(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("cc", data.setting, embed_dim=8)
    loss = method(data.batch, data.student, data.teacher)["cc"]
    own, other = method.embed_student(data.student.pooled), method.embed_teacher(data.teacher.pooled)
    assert loss.item() == pytest.approx(0.02 * congruence(own, other).item(), rel=1e-5)
    loss.backward()
    assert {name: tuple(p.shape) for name, p in method.named_parameters() if p.grad is not None and p.grad.any()} == {
        "embed_student.weight": (8, 16),
        "embed_student.bias": (8,),
        "embed_teacher.weight": (8, 24),
        "embed_teacher.bias": (8,),
    }


def test_senseless_settings_are_refused(sample: Make) -> None:
    setting = sample("classification").setting
    with pytest.raises(MethodError, match="embed_dim is 0; it must be at least 1"):
        methods.build("cc", setting, embed_dim=0)
    with pytest.raises(MethodError, match="pooled_dim is 16 for the student and None for the teacher"):
        methods.build("cc", replace(setting, teacher=NetworkInfo((6, 6))))
