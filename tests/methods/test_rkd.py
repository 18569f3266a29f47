"""Distances and angles between embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError, Outputs
from kdbench.methods.rkd import relations

Make = Callable[..., Any]


def losses(data: Any, **options: Any) -> dict[str, Tensor]:
    terms: dict[str, Tensor] = methods.build("rkd", data.setting, **options)(data.batch, data.student, data.teacher)
    return terms


def pooled(values: Tensor) -> Outputs:
    return Outputs(torch.zeros(len(values), 5), (), pooled=values)


def test_relations_of_a_right_triangle() -> None:
    distances, angles = relations(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))
    expected = torch.tensor([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]]) / 4
    assert torch.allclose(distances, expected)
    assert angles[0, 1, 2].item() == pytest.approx(0, abs=1e-6)
    assert angles[1, 0, 2].item() == pytest.approx(0.6)
    assert angles[2, 0, 1].item() == pytest.approx(0.8)


def test_a_scaled_rotated_and_shifted_copy_costs_nothing(sample: Make) -> None:
    data = sample("classification")
    other = data.teacher.pooled.detach()
    rotation = torch.linalg.qr(torch.randn(24, 24))[0]
    moved = replace(data, student=pooled(3 * other @ rotation + 1))
    assert all(term.item() == pytest.approx(0, abs=1e-5) for term in losses(moved).values())
    assert all(term.item() > 0.1 for term in losses(data).values())


def test_weights_multiply_the_terms(sample: Make) -> None:
    data = sample("classification")
    plain = losses(data)
    weighed = losses(data, weight=2.0, distance_weight=1.0, angle_weight=3.0)
    assert weighed["distance"].item() == pytest.approx(2 * plain["distance"].item() / 25, rel=1e-5)
    assert weighed["angle"].item() == pytest.approx(6 * plain["angle"].item() / 50, rel=1e-5)


@pytest.mark.parametrize("rows", [[0, 0, 1, 2], [0, 0, 0, 0], [0]])
def test_equal_embeddings_keep_values_and_gradients_finite(rows: list[int], sample: Make) -> None:
    data = sample("classification")
    student = data.student.pooled.detach()[rows].requires_grad_()
    terms = losses(replace(data, student=pooled(student), teacher=pooled(data.teacher.pooled[: len(rows)])))
    torch.stack(list(terms.values())).sum().backward()
    assert student.grad is not None and student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e3
    assert all(term.isfinite() for term in terms.values())
    if len(rows) == 1:
        assert all(term.item() == 0 for term in terms.values())


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_network_must_pool(who: str, sample: Make) -> None:
    data = sample("classification")
    without = replace(data, **{who: replace(getattr(data, who), pooled=None)})
    with pytest.raises(MethodError, match=f"the {who} has no pooled feature"):
        losses(without)
