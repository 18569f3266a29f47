"""Receptive tokens: how they are learned and how they weigh the error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdbench import methods
from kdbench.methods._prompts import dice
from kdbench.methods.base import Batch, MethodError, NetworkInfo, Setting
from tests.helpers.small_teacher import CHANNELS, SmallTeacher, endless


@pytest.fixture
def teacher() -> SmallTeacher:
    torch.manual_seed(0)
    return SmallTeacher()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(4, 3, 16, 16, generator=generator), torch.arange(4), torch.arange(4))


def build(**options: Any) -> Any:
    torch.manual_seed(2)
    info = NetworkInfo(CHANNELS)
    return methods.build("maskd", Setting("detection", 4, 4, info, info), **options)


def test_prepare_lowers_its_loss_and_leaves_the_teacher_alone(teacher: SmallTeacher, batch: Batch) -> None:
    method = build(mask_steps=200)
    alignment = [parameter.clone() for parameter in method.align.parameters()]
    state = {key: value.clone() for key, value in teacher.state_dict().items()}
    before = method.mask_loss(teacher, batch).item()
    method.prepare(teacher, endless(batch))
    assert method.mask_loss(teacher, batch).item() < before - 0.2
    assert all(torch.equal(value, state[key]) for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(a, b) for a, b in zip(method.align.parameters(), alignment, strict=True))


def test_mask_loss_is_the_teachers_on_masked_features_plus_overlap(teacher: SmallTeacher, batch: Batch) -> None:
    method = build()
    features = teacher(batch.inputs).features
    masked, overlap = [], 0.0
    for tokens, feature in zip(method.tokens, features, strict=True):
        masks, shares = tokens.masks(feature), tokens.mask_weights(feature)
        masked.append(sum(shares[:, t, None, None, None] * masks[:, t, None] * feature for t in range(6)))
        overlap += dice(masks)
    expected = F.cross_entropy(teacher.classify(masked), batch.targets) + overlap
    assert method.mask_loss(teacher, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_tokens_train_in_prepare_only(teacher: SmallTeacher, batch: Batch) -> None:
    method = build(mask_steps=3)
    drawn = [parameter.clone() for parameter in method.tokens.parameters()]
    assert not any(parameter.requires_grad for parameter in method.tokens.parameters())
    method.prepare(teacher, endless(batch))
    assert not any(parameter.requires_grad for parameter in method.tokens.parameters())
    assert all(parameter.grad is None for parameter in method.tokens.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(method.tokens.parameters(), drawn, strict=True))


@pytest.mark.parametrize("steps", [0, 4])
def test_prepare_takes_as_many_batches_as_it_has_steps(steps: int, teacher: SmallTeacher, batch: Batch) -> None:
    taken = []

    def counted() -> Iterator[Batch]:
        while True:
            taken.append(1)
            yield batch

    method = build(mask_steps=steps)
    torch.manual_seed(0)
    method.prepare(teacher, counted())
    assert len(taken) == steps
    torch.manual_seed(0)
    again = build(mask_steps=0)
    torch.manual_seed(0)
    again.prepare(teacher, counted())
    fresh = all(torch.equal(a, b) for a, b in zip(method.tokens.parameters(), again.tokens.parameters(), strict=True))
    assert fresh == (steps == 0)


def test_tokens_start_small_and_convolutions_by_fan_out() -> None:
    torch.manual_seed(0)
    info = NetworkInfo((64,))
    tokens = methods.build("maskd", Setting("detection", 4, 4, info, info)).tokens[0]
    assert tokens.mask_token.shape == (6, 64)
    assert tokens.mask_token.std().item() == pytest.approx(0.01, rel=0.1)
    assert tokens.prob[0].weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert tokens.prob[2].weight.std().item() == pytest.approx((2 / 6) ** 0.5, rel=0.1)
    assert not tokens.prob[0].bias.any()


def test_dice_is_one_for_equal_masks_and_zero_for_disjoint_ones() -> None:
    equal = torch.rand(2, 1, 3, 3).expand(2, 4, 3, 3)
    disjoint = torch.eye(4).view(1, 4, 2, 2)
    mixed = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]]])
    assert dice(equal).item() == pytest.approx(1, abs=1e-5)
    assert dice(disjoint).item() == 0
    assert dice(mixed).item() == pytest.approx(1 / 3)
    assert dice(disjoint[:, :1]).item() == 0


def test_student_masks_join_after_the_warm_up(plain: Any) -> None:
    method = methods.build("maskd", plain.setting, align=None, custom_mask_warmup=2)
    with torch.no_grad():
        for tokens in method.tokens:
            tokens.mask_token.mul_(100)  # away from masks of one half everywhere
    losses = []
    for step in range(4):
        method.set_progress(step, 10)
        losses.append(method(plain.batch, plain.student, plain.teacher)["maskd"])
    first, second, third, fourth = losses
    assert first == second
    assert third == fourth
    assert third.item() != pytest.approx(first.item(), rel=1e-3)


def test_masks_weigh_the_error_of_the_positions_they_choose(plain: Any) -> None:
    method = methods.build("maskd", plain.setting, align=None, num_tokens=1, weight=1.0)
    teacher = torch.zeros(1, 6, 1, 2)
    teacher[..., 0], teacher[..., 1] = 50.0, -50.0
    with torch.no_grad():
        method.tokens[0].mask_token.fill_(1.0)
    wrong_inside, wrong_outside = teacher.clone(), teacher.clone()
    wrong_inside[..., 0] += 2
    wrong_outside[..., 1] += 2
    assert method.compare(wrong_inside, teacher, 0).item() == pytest.approx(4)
    assert method.compare(wrong_outside, teacher, 0).item() == pytest.approx(0, abs=1e-6)


def test_masks_that_vanish_everywhere_cost_nothing(plain: Any) -> None:
    method = methods.build("maskd", plain.setting, align=None, num_tokens=1)
    with torch.no_grad():
        method.tokens[0].mask_token.fill_(-100.0)
    teacher = torch.ones(1, 6, 1, 1)
    assert method.compare(teacher + 1, teacher, 0).item() == 0


def test_num_tokens_must_be_positive(plain: Any) -> None:
    with pytest.raises(MethodError, match="num_tokens is 0"):
        methods.build("maskd", plain.setting, num_tokens=0)
