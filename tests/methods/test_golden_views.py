"""Methods that read further views, against values recorded from the authors' own code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import NetworkInfo, Outputs
from kdbench.methods.sskd import ROTATED, SSKD, kept_rows
from tests.helpers.golden import assert_golden, batch, fill, leaf, load, setting

STEPS = range(3)
TERMS = {"loss_kd": "kd_loss", "loss_cc": "class_correlation", "loss_bc": "sample_correlation"}


def both_views(weak: Tensor, strong: Tensor) -> Outputs:
    return Outputs(weak, (), views={"strong": Outputs(strong, ())})


@pytest.mark.parametrize(("recorded", "name"), [("mlkd", "mlkd"), ("lskd_mlkd", "ls+mlkd")])
@pytest.mark.parametrize("step", STEPS)
def test_mlkd(recorded: str, name: str, step: int) -> None:
    arrays = {key: value[step] for key, value in load(recorded).items()}
    weak, strong = (leaf(arrays[f"student_logits_{view}"]) for view in ("weak", "strong"))
    method = methods.build(name, setting(NetworkInfo(()), NetworkInfo(()), classes=20))
    images = batch(8, arrays["target"])
    teacher = both_views(*(arrays[f"teacher_logits_{view}"] for view in ("weak", "strong")))
    terms = method(replace(images, views={"strong": images}), both_views(weak, strong), teacher)
    for key, term in TERMS.items():
        assert terms[term].item() == pytest.approx(arrays[key].item(), rel=1e-5)
    task = method.task_weight * F.cross_entropy(weak, arrays["target"])
    assert (task + terms["strong_cross_entropy"]).item() == pytest.approx(arrays["loss_ce"].item(), rel=1e-6)
    gradients = {
        "weak": (weak, arrays["grad_student_logits_weak"]),
        "strong": (strong, arrays["grad_student_logits_strong"]),
    }
    assert_golden(torch.stack([task, *terms.values()]).sum(), arrays["loss"], gradients)


def four_rotations(logits: Tensor, pooled: Tensor) -> Outputs:
    """Outputs of rows 4 i + j, image i rotated by 90 j degrees."""
    first, *views = (Outputs(logits[j::4], (), pooled[j::4]) for j in range(4))
    return replace(first, views=dict(zip(ROTATED, views, strict=True)))


def sskd(arrays: dict[str, Tensor], student: int = 24) -> SSKD:
    infos = [NetworkInfo((), pooled_dim=width) for width in (student, arrays["teacher_pooled"].shape[1])]
    method = methods.build("sskd", setting(*infos, classes=20))
    assert isinstance(method, SSKD)
    for own, recorded in (("head_s", "student_head"), ("head_t", "teacher_head")):
        names = [(layer, kind) for layer in (0, 2) for kind in ("weight", "bias")]
        present = [(layer, kind) for layer, kind in names if f"w_{recorded}_{layer}_{kind}" in arrays]
        fill(method, **{f"{own}__{i}__{kind}": arrays[f"w_{recorded}_{i}_{kind}"] for i, kind in present})
    return method


def test_sskd() -> None:
    arrays = load("sskd")
    logits, pooled = leaf(arrays["student_logits"]), leaf(arrays["student_pooled"])
    method = sskd(arrays)
    teacher = four_rotations(arrays["teacher_logits"], arrays["teacher_pooled"])
    terms = method(batch(8, arrays["target"]), four_rotations(logits, pooled), teacher)
    found = [terms["kd"] / 0.9, terms["rotated"] / 2.7, terms["similarity"] / 10]
    assert [term.item() for term in found] == pytest.approx([arrays[f"loss{i}"].item() for i in (2, 3, 4)], rel=1e-5)
    task = method.task_weight * F.cross_entropy(logits[::4], arrays["target"])
    gradients = {"logits": (logits, arrays["grad_student_logits"]), "pooled": (pooled, arrays["grad_student_pooled"])}
    for name in ("0_weight", "0_bias", "2_weight", "2_bias"):
        parameter = method.get_parameter(f"head_s.{name.replace('_', '.')}")
        gradients[name] = (parameter, arrays[f"grad_w_student_head_{name}"])
    assert_golden(torch.stack([task, *terms.values()]).sum(), arrays["loss"], gradients)


def test_rows_that_sskd_keeps() -> None:
    arrays = load("sskd")
    rotated = torch.arange(32).view(8, 4)[:, 1:].flatten()
    labels = arrays["target"].repeat_interleave(3)
    kept = kept_rows(arrays["teacher_logits"][rotated], labels, 1.0).nonzero().flatten()
    assert sorted(arrays["kept_tf"].tolist()) == kept.tolist()
    head = sskd(arrays).head_t
    images, rows = head(arrays["teacher_pooled"][::4]), head(arrays["teacher_pooled"][rotated])
    cosines = F.cosine_similarity(rows[:, None], images[None], dim=2)
    kept = kept_rows(cosines, torch.arange(8).repeat_interleave(3), 0.75).nonzero().flatten()
    assert sorted(arrays["kept_ss"].tolist()) == kept.tolist()


def test_sskd_teacher_head() -> None:
    arrays = load("sskd_teacher_head")
    method = sskd(arrays)
    method.head_t.requires_grad_(True)
    loss = method.head_loss(four_rotations(torch.zeros(32, 20), arrays["teacher_pooled"]))
    names = ("0_weight", "0_bias", "2_weight", "2_bias")
    parameters = {name: method.get_parameter(f"head_t.{name.replace('_', '.')}") for name in names}
    gradients = {name: (p, arrays[f"grad_w_teacher_head_{name}"]) for name, p in parameters.items()}
    assert_golden(loss, arrays["loss"], gradients)
