"""Losses and gradients against values recorded from the authors' own code."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Batch, Method, NetworkInfo, Outputs, Setting
from kdbench.methods.dist import DIST, inter_class, intra_class
from kdbench.methods.reviewkd import hierarchical_context
from tests.helpers.golden import GOLDEN, TOLERANCE, load

STUDENT = torch.tensor([[1.0, 2, 3], [2, 1, 0], [0, 0, 1], [3, 1, 1]])
TEACHER = torch.tensor([[1.0, 3, 2], [3, 1, 0], [0, 1, 2], [2, 2, 1]])


def setting(task: str, channels: tuple[int, ...] = ()) -> Setting:
    info = NetworkInfo(channels)
    return Setting(task, num_classes=20, num_samples=8, student=info, teacher=info)


def batch(images: int) -> Batch:
    return Batch(torch.zeros(images, 3, 8, 8), None, torch.arange(images))


def check(method: Method, student: Outputs, teacher: Outputs, leaves: list[Tensor], loss: Tensor, grads: Any) -> None:
    (value,) = method(batch(2), student, teacher).values()
    assert value.item() == pytest.approx(loss.item(), rel=TOLERANCE)
    for found, expected in zip(torch.autograd.grad(value, leaves), grads, strict=True):
        assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def check_features(method: Method, arrays: dict[str, Tensor], loss: str = "loss", grad: str = "grad_student_f") -> None:
    student = arrays["student_f"].clone().requires_grad_()
    empty = torch.zeros(2, 1)
    check(
        method,
        Outputs(empty, (student,)),
        Outputs(empty, (arrays["teacher_f"],)),
        [student],
        arrays[loss],
        [arrays[grad]],
    )


def check_logits(method: Method, arrays: dict[str, Tensor]) -> None:
    student = arrays["student_logits"].clone().requires_grad_()
    teacher = Outputs(arrays["teacher_logits"], ())
    check(method, Outputs(student, ()), teacher, [student], arrays["loss"], [arrays["grad_student_logits"]])


@pytest.mark.parametrize("tau", [1, 4])
def test_dist_on_classifier(tau: int) -> None:
    check_logits(methods.build("dist", setting("classification"), tau=float(tau)), load(f"dist_tau{tau}"))


def test_dist_on_segmentation() -> None:
    check_logits(methods.build("dist", setting("segmentation")), load("dist_segmentation"))


def test_dist_on_dense_detector() -> None:
    arrays = load("dist_retinanet")
    student = tuple(arrays[f"student_l{level}"].clone().requires_grad_() for level in (1, 2))
    teacher = tuple(arrays[f"teacher_l{level}"] for level in (1, 2))
    grads = [arrays[f"grad_student_l{level}"] for level in (1, 2)]
    method = methods.build("dist", setting("detection"))
    check(method, Outputs(student, ()), Outputs(teacher, ()), list(student), arrays["loss"], grads)


def test_cwd() -> None:
    check_features(methods.build("cwd", setting("detection", (6,)), align=None), load("cwd"))


def test_akd_cwd_with_the_released_raw_target() -> None:
    options = {"align": None, "drop_rate": 0.0, "cwd_raw_target": True}
    check_features(methods.build("akd+cwd", setting("detection", (6,)), **options), load("akd_cwd_p0"))


@pytest.mark.parametrize(("phase", "warmup"), [("warmup", 7000), ("custom", 0)])
def test_akd_maskd(phase: str, warmup: int) -> None:
    arrays = load("akd_maskd_p0")
    options = {"align": None, "drop_rate": 0.0, "num_tokens": 3, "weight": 1.0, "custom_mask_warmup": warmup}
    method = methods.build("akd+maskd", setting("detection", (6,)), **options)
    weights = {
        "mask_token": arrays["w_mask_token"],
        "prob.0.weight": arrays["w_prob_0_weight"],
        "prob.0.bias": arrays["w_prob_0_bias"],
        "prob.2.weight": arrays["w_prob_2_weight"],
        "prob.2.bias": arrays["w_prob_2_bias"],
    }
    method.get_submodule("base.tokens.0").load_state_dict(weights)
    check_features(method, arrays, f"loss_{phase}", f"grad_{phase}")


def test_akd_masked_generative() -> None:
    arrays = load("akd_masked_generative_p0")
    options = {"align": None, "drop_rate": 0.0, "mask_ratio": 0.0}
    method = methods.build("akd+masked_generative", setting("detection", (6,)), **options)
    prefix = "w_generation_"
    weights = {
        key.removeprefix(prefix).replace("_", "."): array for key, array in arrays.items() if key.startswith(prefix)
    }
    method.get_submodule("base.generators.0").load_state_dict(weights)
    check_features(method, arrays)


@pytest.mark.parametrize(
    ("tau", "inter", "intra", "total"), [(1.0, 0.387155, 0.543650, 0.930806), (4.0, 0.312534, 0.475526, 12.60896)]
)
def test_dist_worked_example(tau: float, inter: float, intra: float, total: float) -> None:
    ys, yt = (STUDENT / tau).softmax(dim=1), (TEACHER / tau).softmax(dim=1)
    assert inter_class(ys, yt).item() == pytest.approx(inter, abs=1e-6)
    assert intra_class(ys, yt).item() == pytest.approx(intra, abs=1e-6)
    assert dist(STUDENT, TEACHER, tau=tau) == pytest.approx(total, rel=2e-6)
    assert dist(STUDENT, TEACHER, tau=tau, tau_squared=False) == pytest.approx(total / tau**2, rel=2e-6)


def test_dist_worked_example_with_sigmoid() -> None:
    assert dist(STUDENT, TEACHER, activation="sigmoid") == pytest.approx(0.359443, abs=1e-6)


def test_a_single_instance_leaves_the_intra_part_at_one() -> None:
    assert dist(STUDENT[:1], TEACHER[:1]) == pytest.approx(1.997861, abs=1e-6)
    assert dist(STUDENT[:1], TEACHER[:1], gamma=0.0) == pytest.approx(0.997861, abs=1e-6)


def dist(student: Tensor, teacher: Tensor, **options: Any) -> float:
    method = DIST(setting("classification"), **options)
    return method(batch(len(student)), Outputs(student, ()), Outputs(teacher, ()))["dist"].item()


def granularity(name: str) -> tuple[Method, dict[str, Tensor], Batch, tuple[Outputs, Outputs]]:
    """`mag+kd` or `mas+kd` with the recorded modules, of soft weight 1, and what both networks show."""
    arrays = load("granularity")
    infos = [NetworkInfo((), pooled_dim=dim) for dim in (16, 24)]
    method = methods.build(name, Setting("classification", 20, 8, *infos), soft_weight=1.0)
    for side in ("student", "teacher"):
        module = method.get_submodule(f"{side}_modules")
        for key, value in module.state_dict().items():
            recorded = key.replace("abstract", "ak").replace("detailed", "dk").replace(".", "_")
            value.copy_(arrays[f"{side}_{recorded}"])
    student, teacher = (
        Outputs(arrays[f"{side}_logits"], (), pooled=arrays[f"{side}_pooled"]) for side in ("student", "teacher")
    )
    return method, arrays, Batch(torch.zeros(8, 3, 8, 8), arrays["target"], torch.arange(8)), (student, teacher)


@pytest.mark.parametrize("name", ["mag", "mas"])
def test_granularity(name: str) -> None:
    method, arrays, samples, (student, teacher) = granularity(f"{name}+kd")
    expected = {
        "soft_target": arrays[f"{name}_soft"].item(),
        "abstract_code": arrays["loss_abstract_code"].item(),
        "detailed_code": arrays["loss_detailed_code"].item(),
    }
    terms = {key: term.item() for key, term in method(samples, student, teacher).items()}
    # An absolute floor, because float32 resolves little more of a code loss at temperature 8.
    assert terms == pytest.approx(expected, rel=TOLERANCE, abs=3e-6)


def test_granularity_phase_of_the_teachers_modules() -> None:
    method, arrays, samples, (_, teacher) = granularity("mag+kd")
    losses = {key: loss.item() for key, loss in method.module_losses(samples, teacher).items()}  # type: ignore[operator]
    expected = {key: arrays[f"phase2_{key}"].item() for key in ("abstract", "detailed")}
    assert losses == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("path", "recorded"),
    [
        ("soft_target", "soft_target"),
        ("logits", "logits"),
        ("attention", "attention"),
        ("nst", "nst_gram"),
        ("feature_map", "feature_map"),
    ],
)
def test_ad_paths(path: str, recorded: str) -> None:
    arrays = load("ad_paths")
    widths = [arrays[name].shape[1] for name in ("raw_student_f", "teacher_f")]
    infos = [NetworkInfo((1, width)) for width in widths]
    method = methods.build("ad", Setting("classification", 20, 8, *infos), paths=f"{path}:1", aggregation="fixed")
    raw = arrays["raw_student_f"]
    if path in ("nst", "feature_map"):
        raw = arrays["adapted_student_f"]
        method.adapters["0"] = torch.nn.Identity()  # type: ignore[operator]
    shown = [
        Outputs(arrays[f"{side}_logits"], (feature, feature))
        for side, feature in (("student", raw), ("teacher", arrays["teacher_f"]))
    ]
    (loss,) = method(batch(8), *shown).values()
    assert loss.item() == pytest.approx(arrays[f"loss_{recorded}"].item(), rel=TOLERANCE)


def test_ad_adaptive() -> None:
    arrays = load("ad_adaptive")
    infos = [NetworkInfo((1, width)) for width in (5, 8)]
    method = methods.build("ad", Setting("classification", 20, 8, *infos), config="adaptive_all")
    method.alphas.data.copy_(arrays["alphas"])  # type: ignore[operator, union-attr]
    losses = dict(zip(("nst", "logits", "attention", "soft_target"), arrays["losses"].split(1), strict=True))
    total = sum(term.item() for term in method.aggregate(losses).values())  # type: ignore[operator]
    assert total == pytest.approx(arrays["total"].item(), rel=TOLERANCE)


def check_classifier(name: str, student: dict[str, Any], teacher: dict[str, Any], **options: Any) -> None:
    """The sum of a classification method's terms, and its gradient for every student array of the golden file.

    `student` and `teacher` are the fields of `Outputs` as keys of the file.
    """
    arrays = load(name)
    leaves = {key: arrays[key].requires_grad_() for key in arrays if key.startswith("student_")}

    def outputs(fields: dict[str, Any]) -> Outputs:
        values = {"logits": torch.zeros(4, 20), "features": ()} | {
            field: tuple(arrays[key] for key in keys) if isinstance(keys, tuple) else arrays[keys]
            for field, keys in fields.items()
        }
        return Outputs(**values)

    own, other = outputs(student), outputs(teacher)
    infos = [NetworkInfo(tuple(feature.shape[1] for feature in side.features)) for side in (own, other)]
    method = methods.build(name, Setting("classification", 20, 8, infos[0], infos[1]), **options)
    targets = arrays.get("target")
    total = torch.stack(list(method(replace(batch(8), targets=targets), own, other).values())).sum()
    assert total.item() == pytest.approx(arrays["loss"].item(), rel=TOLERANCE)
    for key, found in zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True):
        expected = arrays[f"grad_{key}"]
        assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize(("name", "options"), [("kd", {"weight": 1.0}), ("dkd", {"warmup_epochs": 0})])
def test_logit_methods(name: str, options: dict[str, Any]) -> None:
    check_classifier(name, {"logits": "student_logits"}, {"logits": "teacher_logits"}, **options)


@pytest.mark.parametrize(("name", "options"), [("rkd", {}), ("pkt", {"weight": 1.0})])
def test_pooled_methods(name: str, options: dict[str, Any]) -> None:
    check_classifier(name, {"pooled": "student_pooled"}, {"pooled": "teacher_pooled"}, **options)


# The first stage stands in for the stem, which these methods leave out.
@pytest.mark.parametrize(("name", "stages"), [("at", ("f1", "f1", "f2")), ("sp", ("f", "f")), ("nst", ("f", "f"))])
def test_stage_methods(name: str, stages: tuple[str, ...]) -> None:
    student, teacher = (tuple(f"{who}_{stage}" for stage in stages) for who in ("student", "teacher"))
    check_classifier(name, {"features": student}, {"features": teacher}, weight=1.0)


def test_reviewkd_hierarchical_context() -> None:
    arrays = load("reviewkd_hcl")
    student = arrays["student_f"].clone().requires_grad_()
    value = hierarchical_context(student, arrays["teacher_f"])
    assert value.item() == pytest.approx(arrays["loss"].item(), rel=TOLERANCE)
    (gradient,) = torch.autograd.grad(value, student)
    expected = arrays["grad_student_f"]
    assert (gradient - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_every_recorded_file_is_described_with_its_arrays() -> None:
    index = json.loads((GOLDEN / "index.json").read_text())
    described = {name: {key: tuple(shape) for key, shape in index[name]["arrays"].items()} for name in index}
    recorded = {}
    for path in GOLDEN.glob("*.npz"):
        with np.load(path) as arrays:
            recorded[path.stem] = {key: arrays[key].shape for key in arrays}
    recorded.pop("cifar_networks")  # described by cifar_networks.json
    assert recorded == described
