"""Attention maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError, NetworkInfo, Outputs
from kdbench.methods.functional import attention_map

Make = Callable[..., Any]


def loss(data: Any, **options: Any) -> Tensor:
    return methods.build("at", data.setting, **options)(data.batch, data.student, data.teacher)["at"]


def changed(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    return replace(outputs, features=tuple(change(features) for features in outputs.features))


def test_attention_is_a_unit_vector_over_space() -> None:
    torch.manual_seed(0)
    attention = attention_map(torch.randn(3, 5, 4, 2))
    assert attention.shape == (3, 8)
    assert torch.allclose(attention.norm(dim=1), torch.ones(3))
    assert torch.equal(attention_map(torch.zeros(3, 5, 4, 2)), torch.zeros(3, 8))


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_scale_sign_and_order_of_channels_do_not_matter(kind: str, sample: Make) -> None:
    data = sample(kind)
    same = replace(data, student=changed(data.teacher, lambda features: -3 * features.flip(1)))
    assert loss(same).item() == pytest.approx(0, abs=1e-6)
    assert loss(data).item() > 0.1


def test_classification_leaves_the_stem_out_and_sums_the_stages(sample: Make) -> None:
    data = sample("classification")
    stages = [
        (attention_map(own) - attention_map(other)).square().mean()
        for own, other in zip(data.student.features[1:], data.teacher.features[1:], strict=True)
    ]
    assert loss(data).item() == pytest.approx(1000 * sum(stages).item(), rel=1e-5)


def test_segmentation_reads_the_last_feature(sample: Make) -> None:
    data = sample("segmentation")
    loss(data).backward()
    assert [feature.grad is not None for feature in data.student.features] == [False] * 5 + [True]


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_map_is_pooled_to_the_smaller(larger: str, sample: Make) -> None:
    data = sample("classification")
    enlarged = changed(getattr(data, larger), lambda features: features.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert loss(replace(data, **{larger: enlarged})).item() == pytest.approx(loss(data).item(), rel=1e-5)


def test_the_power_is_an_option(sample: Make) -> None:
    data = sample("classification")
    assert loss(data, p=2.0).item() == loss(data).item()
    assert loss(data, p=4.0).item() != pytest.approx(loss(data).item(), rel=1e-2)
    with pytest.raises(MethodError, match="p is 0.0; it must be positive"):
        loss(data, p=0.0)


def test_numbers_of_stages_must_match(sample: Make) -> None:
    setting = replace(sample("classification").setting, student=NetworkInfo((4, 4, 8), (1, 1, 2), 8))
    with pytest.raises(MethodError, match="2 stages after its stem and the teacher 3; choose a teacher"):
        methods.build("at", setting)
