"""Methods that read the last map and the classifiers, against values recorded from the authors' own code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.base import Method, NetworkInfo, Outputs, Setting
from tests.helpers.golden import assert_golden, batch, fill, leaf, load

RELATIVE = 2e-6  # of the largest entry


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


@pytest.mark.parametrize(
    ("recorded", "name", "options"),
    [
        ("sdd_kd", "sdd+kd", {}),
        ("sdd_kd_m12", "sdd+kd", {"grids": "1,2"}),
        ("sdd_dkd", "sdd+dkd", {}),
        ("sdd_nkd", "sdd+nkd", {}),
    ],
)
def test_sdd(recorded: str, name: str, options: dict[str, str]) -> None:
    arrays = load(recorded)
    feature, classifiers = leaf(arrays["student_feature"]), heads(arrays)
    method = methods.build(name, setting_of(*classifiers), **options)
    method.set_progress(40, 1)  # after the warm-up
    student, teacher = (
        outputs(feature, arrays["student_logits"]),
        outputs(arrays["teacher_feature"], arrays["teacher_logits"]),
    )
    leaves = {"feature": feature, "classifier_weight": classifiers[0].weight, "classifier_bias": classifiers[0].bias}
    gradients = {key: (value, arrays[f"grad_loss_kd__student_{key}"]) for key, value in leaves.items()}
    assert_golden(total(losses(method, arrays, student, teacher)), arrays["loss_kd"], gradients, RELATIVE)


@pytest.mark.parametrize(
    ("recorded", "options"),
    [
        ("catkd", {"weight": 15.0, "normalise": False}),
        ("catkd_normalised", {"weight": 600.0, "resolution": 4}),
    ],
)
def test_catkd(recorded: str, options: dict[str, float]) -> None:
    arrays = load(recorded)
    feature, classifiers = leaf(arrays["student_feature"]), heads(arrays)
    method = methods.build("catkd", setting_of(*classifiers), **options)
    student, teacher = (
        outputs(feature, arrays["student_logits"]),
        outputs(arrays["teacher_feature"], torch.zeros(8, 20)),
    )
    leaves = {"feature": feature, "classifier_weight": classifiers[0].weight}
    gradients = {key: (value, arrays[f"grad_loss_CAT__student_{key}"]) for key, value in leaves.items()}
    assert_golden(total(losses(method, arrays, student, teacher)), arrays["loss_CAT"], gradients, RELATIVE)


@pytest.mark.parametrize(("recorded", "strides"), [("simkd", (4, 4)), ("simkd_teacher_larger", (8, 4))])
def test_simkd(recorded: str, strides: tuple[int, int]) -> None:
    arrays = load(recorded)
    feature, classifiers = leaf(arrays["student_feature"]), heads(arrays)
    setting = setting_of(*classifiers)
    student, teacher = (
        replace(info, strides=(s,)) for info, s in zip((setting.student, setting.teacher), strides, strict=True)
    )
    method = methods.build("simkd", replace(setting, student=student, teacher=teacher))
    layers = {i: name for i in (0, 1, 3, 4, 6, 7) for name in [f"transfer_{i}"]}
    names = [(f"{i}__{kind}", f"{name}_{kind}") for i, name in layers.items() for kind in ("weight", "bias")]
    names = [(own, key) for own, key in names if f"w_{key}" in arrays]
    fill(method, **{f"head__projector__{own}": arrays[f"w_{key}"] for own, key in names})
    taught = outputs(arrays["teacher_feature"], torch.zeros(8, 20))
    found = losses(method, arrays, outputs(feature, torch.zeros(8, 20)), taught)["simkd"]
    gradients = {
        key: (method.get_parameter(f"head.projector.{own.replace('__', '.')}"), arrays[f"grad_w_{key}"])
        for own, key in names
    }
    assert_golden(found, arrays["loss"], {"feature": (feature, arrays["grad_student_feature"]), **gradients})
    for layer in (1, 4, 7):
        norm = method.get_submodule(f"head.projector.{layer}")
        for statistic in ("running_mean", "running_var"):
            torch.testing.assert_close(norm.get_buffer(statistic), arrays[f"buffer_transfer_{layer}_{statistic}"])
    head = method.student_head()
    assert head is not None
    shown = outputs(feature.detach(), torch.zeros(8, 20))
    torch.testing.assert_close(head.eval()(shown).logits, arrays["prediction_eval"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(head.train()(shown).logits, arrays["prediction"], rtol=1e-5, atol=1e-6)
