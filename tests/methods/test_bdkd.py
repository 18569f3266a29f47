"""BD-KD: which divergence an image favors, and which network learns from which term."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]
UNSURE, SURE = (0.5, 0.5), (0.1, 0.9)
"""Probabilities of two classes, at the temperature of the method."""


@pytest.fixture
def data(sample: Make) -> Any:
    return sample("classification")


def terms(data: Any, student: list[tuple[float, ...]], teacher: list[tuple[float, ...]], **options: Any) -> Any:
    temperature = options.get("temperature", 1.0)
    data.student.logits = (temperature * torch.tensor(student).log()).requires_grad_()
    data.teacher.logits = (temperature * torch.tensor(teacher).log()).requires_grad_()
    data.batch.targets = torch.zeros(len(student), dtype=torch.long)
    return methods.build("bdkd", data.setting, **options)(data.batch, data.student, data.teacher)


def kl(p: tuple[float, ...], q: tuple[float, ...]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_an_unsure_student_favors_the_reverse_divergence(data: Any) -> None:
    found = terms(data, [UNSURE], [SURE], weight=2.0, temperature=3.0, balance=5.0)
    assert found["forward"].item() == pytest.approx(2 * 9 * kl(SURE, UNSURE), rel=1e-5)
    assert found["reverse"].item() == pytest.approx(2 * 9 * 5 * kl(UNSURE, SURE), rel=1e-5)


def test_a_sure_student_favors_the_forward_divergence(data: Any) -> None:
    found = terms(data, [SURE], [UNSURE], weight=2.0, temperature=3.0, balance=5.0)
    assert found["forward"].item() == pytest.approx(2 * 9 * 5 * kl(UNSURE, SURE), rel=1e-5)
    assert found["reverse"].item() == pytest.approx(2 * 9 * kl(SURE, UNSURE), rel=1e-5)


def test_images_are_weighted_one_by_one(data: Any) -> None:
    found = terms(data, [UNSURE, SURE], [SURE, UNSURE])
    assert found["forward"].item() == pytest.approx((kl(SURE, UNSURE) + 2 * kl(UNSURE, SURE)) / 2, rel=1e-5)
    assert found["reverse"].item() == pytest.approx((2 * kl(UNSURE, SURE) + kl(SURE, UNSURE)) / 2, rel=1e-5)


def test_the_teacher_learns_its_task_and_the_reverse_divergence(data: Any) -> None:
    found = terms(data, [UNSURE, SURE], [SURE, UNSURE], temperature=3.0)
    reverse = 9 * (kl(UNSURE, SURE) + kl(SURE, UNSURE)) / 2
    assert found["teacher_reverse"].item() == pytest.approx(reverse, rel=1e-5)
    task = torch.nn.functional.cross_entropy(data.teacher.logits, data.batch.targets)
    assert found["teacher_task"].item() == pytest.approx(task.item())


@pytest.mark.parametrize(
    ("term", "learner"), [("forward", 0), ("reverse", 0), ("teacher_reverse", 1), ("teacher_task", 1)]
)
def test_each_term_trains_one_network(term: str, learner: int, data: Any) -> None:
    loss = methods.build("bdkd", data.setting)(data.batch, data.student, data.teacher)[term]
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        loss, (data.student.logits, data.teacher.logits), allow_unused=True
    )
    learned = gradients[learner]
    assert learned is not None and learned.any() and gradients[1 - learner] is None


def test_the_gradient_is_that_of_both_divergences(data: Any) -> None:
    """Against differences of a second formulation in float64."""

    def loss(logits: Tensor) -> Tensor:
        p, q = logits.softmax(dim=1), teacher.softmax(dim=1)
        uncertain = (-(p * p.log()).sum(dim=1) > -(q * q.log()).sum(dim=1)).double()
        forward, reverse = (q * (q / p).log()).sum(dim=1), (p * (p / q).log()).sum(dim=1)
        return ((2 - uncertain) * forward + (1 + uncertain) * reverse).mean()

    teacher = data.teacher.logits.detach().double()
    found = methods.build("bdkd", data.setting)(data.batch, data.student, data.teacher)
    (gradient,) = torch.autograd.grad(found["forward"] + found["reverse"], data.student.logits)
    logits = data.student.logits.detach().double()
    for place in ((0, 0), (1, 2), (3, 4)):
        step = torch.zeros_like(logits)
        step[place] = 1e-5
        difference = (loss(logits + step) - loss(logits - step)).item() / 2e-5
        assert gradient[place].item() == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_its_teacher_is_online_and_impossible_options_are_refused(data: Any) -> None:
    assert methods.teacher_mode("bdkd", methods.resolve("bdkd", {})) == "online"
    with pytest.raises(MethodError, match=r"bdkd: temperature is 0\.0; it must be positive"):
        methods.build("bdkd", data.setting, temperature=0.0)
    with pytest.raises(MethodError, match=r"bdkd: balance is 0\.5; it is a weight beside 1, so use 1 or more"):
        methods.build("bdkd", data.setting, balance=0.5)
