"""Methods that read the last map and the classifiers, against values recorded from the authors' own code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.base import Method, NetworkInfo, Outputs, Setting
from tests.helpers.golden import assert_golden, batch, fill, leaf, load


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A classifier with recorded weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    fill(layer, weight=weight, **({} if bias is None else {"bias": bias}))
    return layer


def heads(arrays: dict[str, Tensor]) -> tuple[nn.Linear, nn.Linear]:
    """The classifiers of student and teacher; a student without one in the arrays gets any."""
    student, teacher = (
        linear(weight, arrays.get(f"{who}_classifier_bias")) if weight is not None else nn.Linear(width, 20)
        for who in ("student", "teacher")
        for weight, width in [(arrays.get(f"{who}_classifier_weight"), arrays[f"{who}_feature"].shape[1])]
    )
    return student, teacher.requires_grad_(False)


def setting_of(student: nn.Linear, teacher: nn.Linear) -> Setting:
    infos = [NetworkInfo((c.in_features,), (1,), c.in_features, c) for c in (student, teacher)]
    return Setting("classification", 20, 8, infos[0], infos[1], steps_per_epoch=1)


def outputs(feature: Tensor, logits: Tensor) -> Outputs:
    return Outputs(logits, (feature,), feature.mean((2, 3)), extra={"last_map": feature})


def losses(method: Method, arrays: dict[str, Tensor], student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
    return method(batch(8, arrays.get("target")), student, teacher)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def test_srrl() -> None:
    arrays = load("srrl")
    feature, logits = leaf(arrays["student_feature"]), leaf(arrays["student_logits"])
    method = methods.build("srrl", setting_of(*heads(arrays)))
    parts = {"0__weight": "w_conv", "1__weight": "w_bn_weight", "1__bias": "w_bn_bias"}
    fill(method, **{f"connector__{name}": arrays[recorded] for name, recorded in parts.items()})
    teacher = outputs(arrays["teacher_feature"], arrays["teacher_logits"])
    terms = losses(method, arrays, outputs(feature, logits), teacher)
    assert terms["statistics"].item() == pytest.approx(arrays["loss_stat"].item(), rel=1e-6)
    assert terms["regression"].item() == pytest.approx(arrays["loss_reg"].item(), rel=1e-6)
    gradients = {
        name.replace("__", "."): (method.get_parameter(f"connector.{name.replace('__', '.')}"), arrays[f"grad_{key}"])
        for name, key in parts.items()
    }
    gradients["feature"] = (feature, arrays["grad_student_feature"])
    assert_golden(total(terms), arrays["loss_stat"] + arrays["loss_reg"], gradients)
    norm = method.get_submodule("connector.1")
    torch.testing.assert_close(norm.running_mean, arrays["bn_running_mean_after"])
    torch.testing.assert_close(norm.running_var, arrays["bn_running_var_after"])
