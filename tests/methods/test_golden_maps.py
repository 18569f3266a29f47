"""Methods on feature maps, against values recorded from the authors' own code."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Batch, Method, NetworkInfo, Outputs
from kdbench.methods.bpkd import edge_masks
from tests.helpers.golden import TOLERANCE, assert_golden, batch, leaf, load, setting

Gradients = dict[str, tuple[Tensor, Tensor]]
"""By name: a tensor and its recorded gradient."""


def levels_of(arrays: dict[str, Tensor], who: str) -> tuple[Tensor, ...]:
    """The maps of the student, whose gradients are recorded, or of the teacher."""
    maps = [arrays[key] for key in sorted(arrays) if key.startswith(f"{who}_f")]
    return tuple(leaf(x) if who == "student" else x for x in maps)


def info(maps: tuple[Tensor, ...], stem: bool = False, **more: object) -> NetworkInfo:
    """Shapes of maps; a stem of one channel before them where methods leave it out."""
    channels = (1,) * stem + tuple(x.shape[1] for x in maps)
    return NetworkInfo(channels, (8,) * len(channels), **more)  # type: ignore[arg-type]


def outputs(maps: tuple[Tensor, ...]) -> Outputs:
    """Of a detector."""
    return Outputs((), maps)


def total(method: Method, data: Batch, student: Outputs, teacher: Outputs) -> Tensor:
    return torch.stack(list(method(data, student, teacher).values())).sum()


def student_gradients(arrays: dict[str, Tensor], maps: tuple[Tensor, ...]) -> Gradients:
    """Of each map of the student."""
    return {f"f{i}": (x, arrays[f"grad_student_f{i}"]) for i, x in enumerate(maps, 1)}


def filled(method: Method, arrays: dict[str, Tensor], name_of: Callable[[str], str]) -> Gradients:
    """Set every trained parameter to its recorded value; returns each with its recorded gradient.

    `name_of` is a parameter's name here for one of the released code.
    """
    values = {name_of(key.removeprefix("w_")): array for key, array in arrays.items() if key.startswith("w_")}
    parameters = dict(method.named_parameters())
    assert values.keys() == parameters.keys()
    for name, value in values.items():
        parameters[name].data.copy_(value)
    recorded = {key.removeprefix("grad_w_"): array for key, array in arrays.items() if key.startswith("grad_w_")}
    return {name: (parameters[name_of(name)], array) for name, array in recorded.items()}


def test_pkd() -> None:
    arrays = load("pkd")
    student, teacher = levels_of(arrays, "student"), levels_of(arrays, "teacher")
    method = methods.build("pkd", setting(info(student), info(teacher), "detection"))
    assert not list(method.parameters())
    found = total(method, batch(2), outputs(student), outputs(teacher))
    assert_golden(found, arrays["loss"], student_gradients(arrays, student))


def fgd_module(key: str) -> str:
    """`l1_channel_add_conv_s_0_weight` of the released code -> `context_s.0.add.0.weight`."""
    level, _, rest = key.partition("_")
    index = int(level[1:]) - 1
    layer, _, kind = rest.rpartition("_")
    if layer == "align":
        return f"align.{index}.{kind}"
    if found := re.fullmatch(r"conv_mask_([st])", layer):
        return f"context_{found[1]}.{index}.mask.{kind}"
    found = re.fullmatch(r"channel_add_conv_([st])_(\d)", layer)
    assert found
    return f"context_{found[1]}.{index}.add.{found[2]}.{kind}"


@pytest.mark.parametrize("name", ["fgd", "fgd_aligned"])
def test_fgd(name: str) -> None:
    arrays = load(name)
    student, teacher = levels_of(arrays, "student"), levels_of(arrays, "teacher")
    method = methods.build("fgd", setting(info(student), info(teacher), "detection"), attention_weight=1e-3)
    parameters = filled(method, arrays, fgd_module)
    parameters = {n: pair for n, pair in parameters.items() if "mask" not in n or "bias" not in n}  # 0 but for rounding
    boxes = [arrays[f"boxes_image{i}"] for i in (1, 2)]
    truth = [{"boxes": b, "size": size} for b, size in zip(boxes, arrays["image_size"], strict=True)]
    terms = method(batch(2, truth), outputs(student), outputs(teacher))
    weights = {"foreground": 1e-3, "background": 5e-4, "attention": 1e-3, "relation": 5e-6}
    recorded = {"foreground": "fg", "background": "bg"}
    for term, weight in weights.items():
        raw = sum(arrays[f"raw_{recorded.get(term, term)}{level}"].item() for level in (1, 2, 3))
        assert terms[term].item() == pytest.approx(weight * raw, rel=TOLERANCE)
    assert_golden(
        torch.stack(list(terms.values())).sum(), arrays["loss"], student_gradients(arrays, student) | parameters
    )


def semckd_module(key: str) -> str:
    """`key_weight0_linear1_bias` -> `keys.0.0.bias`; `regressor01_regressor_3_weight` -> `regressors.0.1.3.weight`."""
    if found := re.fullmatch(r"(key|query)_weight(\d)_linear(\d)_(\w+)", key):
        kind = {"key": "keys", "query": "queries"}[found[1]]
        return f"{kind}.{found[2]}.{2 * int(found[3]) - 2}.{found[4]}"
    found = re.fullmatch(r"regressor(\d)(\d)_regressor_(\d)_(\w+)", key)
    assert found
    return "regressors." + ".".join(found.groups())


def test_semckd() -> None:
    arrays = load("semckd")
    student, teacher = levels_of(arrays, "student"), levels_of(arrays, "teacher")
    shapes = replace(setting(info(student, stem=True), info(teacher, stem=True)), batch_size=8)
    method = methods.build("semckd", shapes, weight=1.0, kd_weight=0.0)
    parameters = filled(method, arrays, semckd_module)
    maps = [(torch.zeros(8, 1, 1, 1), *x) for x in (student, teacher)]
    found = total(method, batch(8), *(Outputs(torch.zeros(8, 10), x) for x in maps))
    torch.testing.assert_close(method.attention(student, list(teacher)), arrays["attention"])  # type: ignore[operator]
    # Similarities are sums over thousands of products.
    assert_golden(found, arrays["loss"], student_gradients(arrays, student) | parameters, tolerance=1e-4)


def ofakd_module(key: str) -> str:
    """`stage1_0_op_5_weight` -> `heads.0.0.5.weight`; `stage1_5_weight` -> `heads.0.5.weight`."""
    stage, rest = key.removeprefix("stage").split("_", 1)
    return f"heads.{int(stage) - 1}." + rest.replace("op_", "").replace("_", ".")


@pytest.mark.parametrize(("name", "eps"), [("ofakd", 1.5), ("ofakd_eps1", 1.0)])
def test_ofakd(name: str, eps: float) -> None:
    arrays = load(name)
    maps, logits = levels_of(arrays, "student"), leaf(arrays["student_logits"])
    student, teacher = info(maps, stem=True, pooled_dim=32), NetworkInfo((), pooled_dim=48)
    method = methods.build("ofakd", setting(student, teacher, classes=20), eps=eps)
    parameters = filled(method, arrays, ofakd_module)
    shown = Outputs(logits, (torch.zeros(8, 1, 1, 1), *maps)), Outputs(arrays["teacher_logits"], ())
    terms = method(batch(8, arrays["target"]), *shown)
    for term, recorded in {"logits": "loss_kd", "stages": "loss_ofa"}.items():
        assert terms[term].item() == pytest.approx(arrays[recorded].item(), rel=TOLERANCE)
    task = torch.nn.functional.cross_entropy(logits, arrays["target"])
    gradients = student_gradients(arrays, maps) | {"logits": (logits, arrays["grad_student_logits"])} | parameters
    assert_golden(task + terms["logits"] + terms["stages"], arrays["loss"], gradients)


def afdcd_module(key: str) -> str:
    """Names in the released code, a plain and an enhanced generator's."""
    layer, _, kind = key.rpartition("_")
    enhanced = {"block_1_0": "first", "block_2_0": "second", "adpator_1": "from_first", "adpator_2": "from_second"}
    part = layer.removeprefix("projetor_")
    return f"align.{kind}" if layer == "align" else f"generator.{enhanced.get(part, part)}.{kind}"


@pytest.mark.parametrize("name", ["afdcd", "afdcd_enhanced"])
def test_afdcd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = load(name)
    student, teacher = leaf(arrays["student_feature"]), arrays["teacher_feature"]
    weights = {"feature_weight": 1.0, "contrast_weight": 1.0, "kd_weight": 0.0}
    infos = [NetworkInfo((x.shape[1], 1)) for x in (student, teacher)]
    shapes = setting(*infos, "segmentation")
    method = methods.build("afdcd", shapes, enhanced=name == "afdcd_enhanced", **weights)
    parameters = filled(method, arrays, afdcd_module)
    monkeypatch.setattr(torch, "rand", lambda *_size, **_: arrays["uniform"])
    logits, head = torch.zeros(2, 10, 1, 1), torch.zeros(2, 1, 1, 1)
    terms = method(batch(2), *(Outputs(logits, (x, head)) for x in (student, teacher)))
    for term, recorded in {"feature": "loss_fd", "contrast": "loss_ctr"}.items():
        assert terms[term].item() == pytest.approx(arrays[recorded].item(), rel=TOLERANCE)
    # Here every pooled entry of the teacher is above the student's, so the gradient of the contrast is 0 but for
    # rounding; tests/methods/test_afdcd.py compares it with the formula.
    gradients = {"student": (student, arrays["grad_student_feature"])} | parameters
    assert_golden(terms["feature"] + terms["contrast"], arrays["loss"], gradients)


def test_freekd() -> None:
    arrays = load("freekd")
    student, teacher = levels_of(arrays, "student"), levels_of(arrays, "teacher")
    method = methods.build("freekd", setting(info(student), info(teacher), "detection"), mse_weight=0.0, align=None)
    filled(method, arrays, lambda key: f"prompts.{int(key[-1]) - 1}")
    found = total(method, batch(2), outputs(student), outputs(teacher))
    assert_golden(found, arrays["loss"], student_gradients(arrays, student))


def test_freekd_prompts() -> None:
    arrays = load("freekd_prompt")
    feature = arrays["teacher_feature"]
    method = methods.build("freekd", setting(info((feature,)), info((feature,)), "detection"), align=None)
    parameters = filled(method.requires_grad_(True), arrays, lambda _key: "prompts.0")
    rebuilt, overlap = method.rebuilt(feature, 0)  # type: ignore[operator]
    assert (rebuilt - arrays["rebuilt"]).abs().max() <= TOLERANCE * arrays["rebuilt"].abs().max()
    assert_golden(overlap, arrays["loss"], parameters)


def test_bpkd_as_a_third_party_reads_the_paper() -> None:
    arrays = load("bpkd")
    logits = leaf(arrays["student_logits"])
    shapes = setting(NetworkInfo(()), NetworkInfo(()), "segmentation", classes=5)
    method = methods.build("bpkd", shapes)
    edges = edge_masks(arrays["target"], 5, 3, (8, 8))
    torch.testing.assert_close(edges, arrays["edge_mask"])
    terms = method(batch(2, arrays["target"]), Outputs(logits, ()), Outputs(arrays["teacher_logits"], ()))
    for term, loss in terms.items():
        gradient = {"logits": (logits, arrays[f"grad_loss_{term}__student_logits"])}
        assert_golden(loss, arrays[f"loss_{term}"], gradient)
    assert sum(terms.values()).item() == pytest.approx(arrays["loss"].item(), rel=TOLERANCE)  # type: ignore[union-attr]
