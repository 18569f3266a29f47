"""Dual students: how certain the teacher is, and what each student learns from the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Method, MethodError

Make = Callable[..., Any]


@pytest.fixture
def data(sample: Make) -> Any:
    made = sample("classification")
    made.batch.inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return made


def build(data: Any, **options: Any) -> Method:
    torch.manual_seed(0)
    return methods.build("dual_students", data.setting, **options)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each row."""
    return (p * (p / q).log()).sum(dim=1)


def test_terms_are_those_of_the_class(data: Any) -> None:
    method = build(data, weight=2.0, peer_weight=3.0, temperature=2.0)
    t, a, b = (
        z.detach().double() for z in (data.teacher.logits, data.student.logits, method.second(data.batch.inputs).logits)
    )
    p, (p_t, p_a, p_b) = t.softmax(dim=1), ((z / 2).softmax(dim=1) for z in (t, a, b))
    certainty = 1 + (p * p.log()).sum(dim=1) / math.log(5)
    expected = {
        "soft_target": 2 * 4 * (certainty * kl(p_t, p_a)).mean(),
        "peer": 3 * 4 * kl(p_b, p_a).mean(),
        "second_task": F.cross_entropy(b, data.batch.targets),
        "second_soft_target": 2 * 4 * (certainty * kl(p_t, p_b)).mean(),
        "second_peer": 3 * 4 * kl(p_a, p_b).mean(),
    }
    found = method(data.batch, data.student, data.teacher)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=1e-5
    )
    assert method.task_weight == 1


def test_a_teacher_that_knows_nothing_teaches_nothing_and_a_certain_one_fully(data: Any) -> None:
    method = build(data, temperature=1.0)

    def soft_target(logits: Tensor) -> float:
        data.teacher.logits = logits
        return method(data.batch, data.student, data.teacher)["soft_target"].item()

    assert soft_target(torch.full((4, 5), 7.0)) == pytest.approx(0, abs=1e-6)
    labels = data.batch.targets
    certain = soft_target(60.0 * F.one_hot(labels, 5))
    assert certain == pytest.approx(F.cross_entropy(data.student.logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("term", "learner"),
    [("soft_target", 0), ("peer", 0), ("second_task", 1), ("second_soft_target", 1), ("second_peer", 1)],
)
def test_each_term_trains_one_student(term: str, learner: int, data: Any) -> None:
    method = build(data)
    loss = method(data.batch, data.student, data.teacher)[term]
    places = (data.student.logits, method.second.classify.weight, data.teacher.logits)
    gradients = torch.autograd.grad(loss, places, allow_unused=True)
    assert [gradient is not None and bool(gradient.any()) for gradient in gradients] == [
        learner == 0,
        learner == 1,
        False,
    ]


def test_the_second_student_trains_with_the_method_and_has_its_own_initial_weights(data: Any) -> None:
    torch.manual_seed(0)
    first = data.setting.new_student()
    method = methods.build("dual_students", data.setting)
    weight = method.second.classify.weight
    assert any(parameter is weight for parameter in method.parameters()) and weight.requires_grad
    assert not torch.equal(first.classify.weight, weight)


def test_what_it_cannot_use_is_refused(data: Any) -> None:
    method = methods.build("dual_students", replace(data.setting, new_student=None))
    with pytest.raises(MethodError, match="dual_students: it trains a second student; give the setting new_student"):
        method(data.batch, data.student, data.teacher)
    with pytest.raises(MethodError, match=r"dual_students: temperature is 0\.0; it must be positive"):
        build(data, temperature=0.0)
