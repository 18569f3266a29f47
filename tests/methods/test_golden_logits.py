"""Methods on logits and pooled features, against values recorded from the authors' own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Method, NetworkInfo, Outputs
from tests.helpers.golden import assert_golden, batch, fill, leaf, load, setting

EPOCHS = (1, 2, 3, 25)
"""Of the traces of methods with a warm-up, counted from 1."""


def build(name: str, classes: int, options: dict[str, Any]) -> Method:
    return methods.build(name, setting(NetworkInfo(()), NetworkInfo(()), classes=classes), **options)


def total(method: Method, student: Tensor, teacher: Tensor, labels: Tensor | None, with_task: bool) -> Tensor:
    """The sum of the method's terms, with the weighted cross-entropy of the labels if the recorded loss has it."""
    terms = method(batch(len(student), labels), Outputs(student, ()), Outputs(teacher, ()))
    loss = torch.stack(list(terms.values())).sum()
    return loss + method.task_weight * F.cross_entropy(student, labels) if with_task and labels is not None else loss


@pytest.mark.parametrize(
    ("name", "method", "options", "with_task"),
    [
        ("lskd_kd", "ls+kd", {}, True),
        ("lskd_kd_t4_w12", "ls+kd", {"temperature": 4.0, "weight": 12.0}, True),
        ("nkd", "nkd", {}, False),
        ("nkd_cifar", "nkd", {"gamma": 3.5, "temperature": 3.0}, False),
        ("ttm", "ttm", {"weight": 1.0}, False),
        ("wttm", "wttm", {"weight": 1.0}, False),
        ("normkd", "normkd", {}, True),
        ("wsld", "wsld", {}, True),
        ("wsld_k20", "wsld", {"weight": 2.25, "temperature": 4.0}, False),
    ],
)
def test_methods_on_logits(name: str, method: str, options: dict[str, Any], with_task: bool) -> None:
    arrays = load(name)
    student, teacher = leaf(arrays["student_logits"]), arrays["teacher_logits"]
    built = build(method, student.shape[1], options)
    found = total(built, student, teacher, arrays.get("target"), with_task)
    assert_golden(found, arrays["loss"], {"student": (student, arrays["grad_student_logits"])})


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("lskd_dkd", "ls+dkd", {}),
        ("normkd_dkd", "normkd_dkd", {}),
        ("rld", "rld", {"alpha_temperature": 1.0}),
        ("rld_same_t", "rld", {}),
        ("rld_standardised", "ls+rld", {}),
        ("dtkd", "dtkd", {}),
    ],
)
def test_methods_with_a_warm_up(name: str, method: str, options: dict[str, Any]) -> None:
    arrays = load(name)
    assert tuple(arrays["epoch"].tolist()) == EPOCHS
    built = build(method, arrays["student_logits"].shape[2], options)
    for step, epoch in enumerate(EPOCHS):
        built.set_progress(epoch - 1, 1)
        student = leaf(arrays["student_logits"][step])
        found = total(built, student, arrays["teacher_logits"][step], arrays["target"][step], with_task=True)
        gradients = {f"student in epoch {epoch}": (student, arrays["grad_student_logits"][step])}
        assert_golden(found, arrays["loss"][step], gradients)


@pytest.mark.parametrize(("name", "method", "tolerance"), [("ctkd", "ctkd", 1e-5), ("lskd_ctkd", "ls+ctkd", 5e-5)])
def test_ctkd(name: str, method: str, tolerance: float) -> None:
    arrays = load(name)
    built = build(method, arrays["student_logits"].shape[2], {})
    for step, epoch in enumerate(arrays["epoch"].tolist()):
        built.set_progress(int(epoch) - 1, 1)
        next(built.parameters()).data.copy_(arrays["w_theta"][step][0])
        assert built.learned()["temperature"] == pytest.approx(arrays["temperature"][step].item(), rel=1e-6)
        student = leaf(arrays["student_logits"][step])
        found = total(built, student, arrays["teacher_logits"][step], arrays["target"][step], with_task=True)
        gradients = {f"student in epoch {epoch}": (student, arrays["grad_student_logits"][step])}
        assert_golden(found, arrays["loss"][step], gradients, tolerance)


@pytest.mark.parametrize(("name", "method"), [("ctkd", "ctkd"), ("lskd_ctkd", "ls+ctkd")])
def test_steps_of_ctkds_temperature(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = load(name)
    # Near a temperature of 15 the gradient of theta is a small difference of large numbers.
    monkeypatch.setattr(Outputs, "float", lambda outputs: outputs)
    built = build(method, arrays["student_logits"].shape[2], {}).double()
    (theta,) = built.parameters()
    optimizer = torch.optim.SGD([theta], lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step, epoch in enumerate(arrays["epoch"].tolist()):
        built.set_progress(int(epoch) - 1, 1)
        theta.data.copy_(arrays["w_theta"][step][0])
        student, teacher = (arrays[f"{who}_logits"][step].double() for who in ("student", "teacher"))
        loss = total(built, student, teacher, arrays["target"][step], with_task=True)
        gradients = {f"theta in epoch {epoch}": (theta, arrays["grad_w_theta_double"][step])}
        assert_golden(loss, arrays["loss_double"][step], gradients)
        optimizer.zero_grad()
        total(built, student, teacher, arrays["target"][step], with_task=True).backward()
        optimizer.step()
        # Recorded in single precision; without the weight decay, which is not reversed, it would be 2.5e-5 larger.
        assert theta.item() == pytest.approx(arrays["theta_after_step"][step].item(), abs=1e-5)


def test_uskd() -> None:
    arrays = load("uskd")
    logits, middle = leaf(arrays["student_logits"]), leaf(arrays["student_middle_pooled"])
    info = NetworkInfo((middle.shape[1], 1), (1, 1))
    method = methods.build("uskd", setting(info, info, classes=logits.shape[1]))
    fill(method, weak__weight=arrays["w_fc_weight"], weak__bias=arrays["w_fc_bias"])
    outputs = Outputs(logits, (middle[:, :, None, None].expand(-1, -1, 2, 3), torch.zeros(len(logits), 1, 1, 1)))
    terms = method(batch(len(logits), arrays["target"]), outputs, outputs)
    gradients = {
        "logits": (logits, arrays["grad_student_logits"]),
        "middle": (middle, arrays["grad_student_middle_pooled"]),
        "weight": (method.get_parameter("weak.weight"), arrays["grad_w_fc_weight"]),
        "bias": (method.get_parameter("weak.bias"), arrays["grad_w_fc_bias"]),
    }
    assert_golden(torch.stack(list(terms.values())).sum(), arrays["loss"], gradients)


@pytest.mark.parametrize(("name", "vectors"), [("kdsvd", "width"), ("kdsvd_repdistiller", "channels")])
def test_kdsvd(name: str, vectors: str) -> None:
    arrays = load(name)
    student, teacher = ([arrays[f"{who}_f{i}"] for i in (1, 2, 3)] for who in ("student", "teacher"))
    student = [leaf(x) for x in student]
    infos = [NetworkInfo((1, *(x.shape[1] for x in maps)), (1, 1, 2, 2)) for maps in (student, teacher)]
    method = methods.build("kdsvd", setting(*infos), vectors=vectors)
    stem = torch.zeros(len(student[0]), 1, 1, 1)
    logits = torch.zeros(len(stem), 10)
    terms = method(batch(len(stem)), Outputs(logits, (stem, *student)), Outputs(logits, (stem, *teacher)))
    gradients = {f"f{i}": (x, arrays[f"grad_student_f{i}"]) for i, x in enumerate(student, 1)}
    # The recorded gradients themselves agree with double precision to 4e-5.
    assert_golden(terms["kdsvd"], arrays["loss"], gradients, 1e-4)


@pytest.mark.parametrize(
    ("name", "options"), [("itrd", {}), ("itrd_same_width", {"alpha": 1.01, "lambda_mutual": 1.0})]
)
def test_itrd(name: str, options: dict[str, Any]) -> None:
    arrays = load(name)
    student, teacher = leaf(arrays["student_pooled"]), arrays["teacher_pooled"]
    infos = [NetworkInfo((), pooled_dim=x.shape[1]) for x in (student, teacher)]
    method = methods.build("itrd", setting(*infos), **options)
    fill(method, embed__weight=arrays["w_embed_weight"], embed__bias=arrays["w_embed_bias"])
    logits = torch.zeros(len(student), 10)
    terms = method(batch(len(student)), Outputs(logits, (), pooled=student), Outputs(logits, (), pooled=teacher))
    for term, value in terms.items():
        assert value.item() == pytest.approx(arrays[f"loss_{term}"].item(), rel=1e-5)
    gradients = {
        "pooled": (student, arrays["grad_student_pooled"]),
        "weight": (method.get_parameter("embed.weight"), arrays["grad_w_embed_weight"]),
    }
    assert_golden(terms["correlation"] + terms["mutual"], arrays["loss"], gradients, 1e-4)
