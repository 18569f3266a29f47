"""Factor transfer: how the paraphraser is learned and what the translator is held to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Batch, MethodError, Outputs


@pytest.fixture
def data(sample: Any) -> Any:
    return sample("classification")


def build(data: Any, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return methods.build("ft", data.setting, **options)


class FixedTeacher:
    """Shows the sample's outputs, and counts how often it is asked."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs, self.asked = outputs, 0

    def __call__(self, inputs: Tensor) -> Outputs:
        self.asked += 1
        return self.outputs

    def losses_from(self, features: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        raise AssertionError("factor transfer asks for no task losses")


def prepare(method: Any, data: Any, seed: int = 3) -> FixedTeacher:
    teacher = FixedTeacher(data.teacher)

    def endless() -> Iterator[Batch]:
        while True:
            yield data.batch

    torch.manual_seed(seed)
    method.prepare(teacher, endless())
    return teacher


def test_loss_is_the_distance_of_the_factors_patterns(data: Any) -> None:
    method = build(data)
    own = method.translator(data.student.features[-1])
    other = method.paraphraser.encoder(data.teacher.features[-1])
    assert own.shape == other.shape == (4, 12, 2, 2)
    rows = []
    for factor in (own, other):
        q = torch.stack([sum(channel.square() for channel in image) / 12 for image in factor]).flatten(1)
        rows.append(q / q.norm(dim=1, keepdim=True))
    expected = 200 * (rows[0] - rows[1]).abs().sum().item() / rows[0].numel()
    found = method(data.batch, data.student, data.teacher)["ft"]
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_prepare_learns_to_reconstruct(data: Any) -> None:
    method = build(data, paraphraser_epochs=12, paraphraser_lr=0.3)
    feature = data.teacher.features[-1].detach()
    translator = [parameter.clone() for parameter in method.translator.parameters()]
    teacher = prepare(method, data)
    assert teacher.asked == 12 * 5
    start = build(data, paraphraser_epochs=0)
    prepare(start, data)
    before, after = (F.mse_loss(m.paraphraser(feature), feature).item() for m in (start, method))
    assert after < 0.9 * before
    assert all(torch.equal(a, b) for a, b in zip(method.translator.parameters(), translator, strict=True))
    assert all(feature.grad is None for feature in data.teacher.features)


def test_paraphraser_is_frozen_after_prepare_as_before(data: Any) -> None:
    method = build(data, paraphraser_epochs=1)
    for _ in range(2):
        assert not any(parameter.requires_grad for parameter in method.paraphraser.parameters())
        prepare(method, data)
    assert all(parameter.grad is None for parameter in method.paraphraser.parameters())


def test_what_prepare_leaves_depends_on_the_preparation_alone(data: Any) -> None:
    one, two = build(data, seed=0, paraphraser_epochs=1), build(data, seed=9, paraphraser_epochs=1, weight=1.0)
    other = build(data, paraphraser_epochs=1, paraphraser_lr=0.02)
    decayed = build(data, paraphraser_epochs=1, paraphraser_weight_decay=0.5)
    assert decayed.preparation_key != one.preparation_key
    assert one.preparation_key == two.preparation_key != other.preparation_key
    states = []
    for method in (one, two, other):
        prepare(method, data)
        states.append({k: v for k, v in method.state_dict().items() if k.startswith(method.prepared_prefixes)})
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())
    assert not all(torch.equal(states[2][key], value) for key, value in states[0].items())
    distinct = {build(data, **o).preparation_key for o in ({}, {"k": 0.25}, {"paraphraser_epochs": 2})}
    assert len(distinct) == 3


def test_weight_decay_of_the_preparation_makes_the_paraphraser_smaller(data: Any) -> None:
    sizes = []
    for decay in (0.0, 1.0):
        method = build(data, paraphraser_epochs=2, paraphraser_weight_decay=decay)
        prepare(method, data)
        sizes.append(sum(p.square().sum().item() for p in method.paraphraser.parameters() if p.ndim > 1))
    assert sizes[1] < 0.95 * sizes[0]


def test_factors_of_other_sizes_are_pooled_to_the_smaller(data: Any) -> None:
    method = build(data)
    larger = replace(data.teacher, features=(*data.teacher.features[:-1], torch.ones(4, 24, 4, 4)))
    assert method(data.batch, data.student, larger)["ft"].isfinite()


def test_faults_are_named(data: Any) -> None:
    with pytest.raises(MethodError, match="the factor has no channel"):
        build(data, k=0.01)
    with pytest.raises(MethodError, match="paraphraser_epochs is -1"):
        build(data, paraphraser_epochs=-1)
    with pytest.raises(MethodError, match="paraphraser_weight_decay -0.1"):
        build(data, paraphraser_weight_decay=-0.1)
    with pytest.raises(MethodError, match=r"needs Setting\.steps_per_epoch"):
        methods.build("ft", replace(data.setting, steps_per_epoch=None))
