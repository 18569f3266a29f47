"""DML: two networks that learn from each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdbench import methods
from kdbench.methods.base import MethodError
from kdbench.methods.functional import kl_divergence

Make = Callable[..., Any]


@pytest.fixture
def data(sample: Make) -> Any:
    return sample("classification")


def test_losses_are_mutual_and_the_teacher_has_its_own_task(data: Any) -> None:
    method = methods.build("dml", data.setting, weight=2.0, temperature=3.0)
    own, peer = data.student.logits, data.teacher.logits
    terms = method(data.batch, data.student, data.teacher)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {
            "mutual_student": 2 * kl_divergence(own, peer, 3.0).item(),
            "mutual_teacher": 2 * kl_divergence(peer, own, 3.0).item(),
            "teacher_task": F.cross_entropy(peer, data.batch.targets).item(),
        }
    )
    assert method.task_weight == 1


@pytest.mark.parametrize(("term", "learner"), [("mutual_student", 0), ("mutual_teacher", 1), ("teacher_task", 1)])
def test_each_term_trains_one_network(term: str, learner: int, data: Any) -> None:
    method = methods.build("dml", data.setting)
    loss = method(data.batch, data.student, data.teacher)[term]
    gradients = torch.autograd.grad(loss, (data.student.logits, data.teacher.logits), allow_unused=True)
    assert gradients[learner] is not None and gradients[learner].any()
    assert gradients[1 - learner] is None


def test_its_teacher_is_online(data: Any) -> None:
    assert methods.teacher_mode("dml", methods.resolve("dml", {})) == "online"


def test_a_temperature_of_nought_is_refused(data: Any) -> None:
    with pytest.raises(MethodError, match="dml: temperature is 0.0; it must be positive"):
        methods.build("dml", data.setting, temperature=0.0)
