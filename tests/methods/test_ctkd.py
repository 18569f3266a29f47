"""A temperature that learns against the student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError
from kdbench.methods.functional import kl_divergence

Make = Callable[..., Any]


@pytest.mark.parametrize("name", ["ctkd", "ls+ctkd"])
def test_is_kd_at_the_learned_temperature(name: str, sample: Make) -> None:
    data = sample("classification")
    method = methods.build(name, data.setting, weight=1.0)
    temperature = method.learned()["temperature"]
    assert temperature == pytest.approx({"ctkd": 15.62, "ls+ctkd": 31.24}[name], abs=0.01)
    kd = methods.build(name.replace("ctkd", "kd"), data.setting, weight=1.0, temperature=temperature)
    (found,) = method(data.batch, data.student, data.teacher).values()
    (expected,) = kd(data.batch, data.student, data.teacher).values()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_temperature_ascends_the_loss_the_faster_the_later(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("ctkd", data.setting, weight=1.0, t_end=3.0)
    (theta,) = method.parameters()
    temperature = (1 + 3 * theta.sigmoid()).requires_grad_()
    s, t = data.student.logits.detach(), data.teacher.logits.detach()
    kl = torch.nn.functional.kl_div(
        (s / temperature).log_softmax(1), (t / temperature).softmax(1), reduction="batchmean"
    )
    (descent,) = torch.autograd.grad(temperature**2 * kl, [theta])
    factors = []
    for epoch in (0, 4, 9, 30):
        method.set_progress(epoch, 1)
        (loss,) = method(data.batch, data.student, data.teacher).values()
        theta.grad = data.student.logits.grad = None
        loss.backward()
        factors.append((theta.grad / descent).item())
    assert factors == pytest.approx([-0.0245, -0.5, -1, -1], abs=1e-3)


def test_the_students_gradient_is_not_reversed(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("ctkd", data.setting, weight=1.0)
    temperature = method.learned()["temperature"]
    expected = torch.autograd.grad(
        kl_divergence(data.student.logits, data.teacher.logits, temperature), [data.student.logits]
    )
    (loss,) = method(data.batch, data.student, data.teacher).values()
    torch.testing.assert_close(torch.autograd.grad(loss, [data.student.logits]), expected, rtol=1e-4, atol=1e-7)


def test_senseless_settings_are_refused(sample: Make) -> None:
    setting = sample("classification").setting
    with pytest.raises(MethodError, match=r"t_start is 0\.0; it must be positive"):
        methods.build("ctkd", setting, t_start=0.0)
    with pytest.raises(MethodError, match="ramp_epochs is -1"):
        methods.build("ctkd", setting, ramp_epochs=-1)
