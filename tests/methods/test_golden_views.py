"""Methods that read further views, against values recorded from the authors' own code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import NetworkInfo, Outputs
from tests.helpers.golden import assert_golden, batch, leaf, load, setting

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
    task = method.task_weight * torch.nn.functional.cross_entropy(weak, arrays["target"])
    assert (task + terms["strong_cross_entropy"]).item() == pytest.approx(arrays["loss_ce"].item(), rel=1e-6)
    gradients = {
        "weak": (weak, arrays["grad_student_logits_weak"]),
        "strong": (strong, arrays["grad_student_logits_strong"]),
    }
    assert_golden(torch.stack([task, *terms.values()]).sum(), arrays["loss"], gradients)
