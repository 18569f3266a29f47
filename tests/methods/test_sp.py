"""Similarities within a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.sp import similarity

Make = Callable[..., Any]


def loss(data: Any) -> Tensor:
    return methods.build("sp", data.setting)(data.batch, data.student, data.teacher)["sp"]


def test_reads_the_last_stage_alone(sample: Make) -> None:
    data = sample("classification")
    loss(data).backward()
    assert [features.grad is not None for features in data.student.features] == [False, False, False, True]
    expected = similarity(data.student.features[3]) - similarity(data.teacher.features[3])
    assert loss(data).item() == pytest.approx(3000 / 16 * expected.square().sum().item(), rel=1e-5)


def test_rows_have_unit_length() -> None:
    torch.manual_seed(0)
    rows = similarity(torch.randn(5, 3, 2, 2))
    assert rows.shape == (5, 5)
    assert torch.allclose(rows.norm(dim=1), torch.ones(5))


def test_scale_and_a_rotation_of_the_feature_space_do_not_matter(sample: Make) -> None:
    data = sample("classification")
    last = data.teacher.features[-1]
    rotation = torch.linalg.qr(torch.randn(96, 96))[0]
    moved = (2 * last.flatten(1) @ rotation).view(4, 24, 2, 2)
    same = replace(data, student=replace(data.student, features=(moved,)))
    assert loss(same).item() == pytest.approx(0, abs=1e-6)
    assert loss(data).item() > 1
