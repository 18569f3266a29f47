"""Neighbourhoods as distributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError
from kdbench.methods.pkt import similarity_distribution

Make = Callable[..., Any]


def loss(data: Any) -> Tensor:
    return methods.build("pkt", data.setting)(data.batch, data.student, data.teacher)["pkt"]


def test_rows_are_distributions_over_the_batch() -> None:
    rows = similarity_distribution(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
    expected = torch.tensor([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])
    assert torch.allclose(rows, expected / expected.sum(dim=1, keepdim=True), atol=1e-6)


def test_is_the_mean_divergence_with_its_weight(sample: Make) -> None:
    data = sample("classification")
    own, other = (similarity_distribution(outputs.pooled) for outputs in (data.student, data.teacher))
    expected = 30_000 * (other * (other / own).log()).mean()
    assert loss(data).item() == pytest.approx(expected.item(), rel=1e-4)


def test_lengths_and_a_rotation_do_not_matter(sample: Make) -> None:
    data = sample("classification")
    rotation = torch.linalg.qr(torch.randn(24, 24))[0]
    moved = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None] * data.teacher.pooled @ rotation
    assert loss(replace(data, student=replace(data.student, pooled=moved))).item() == pytest.approx(0, abs=0.02)
    assert loss(data).item() > 10


def test_an_embedding_of_zeros_keeps_the_gradient_finite(sample: Make) -> None:
    data = sample("classification")
    student = torch.cat([torch.zeros(1, 16), data.student.pooled[1:].detach()]).requires_grad_()
    loss(replace(data, student=replace(data.student, pooled=student))).backward()
    assert student.grad is not None and student.grad.isfinite().all()


def test_a_network_must_pool(sample: Make) -> None:
    data = sample("classification")
    with pytest.raises(MethodError, match="pkt: the teacher has no pooled feature"):
        loss(replace(data, teacher=replace(data.teacher, pooled=None)))
