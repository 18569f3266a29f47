"""Methods over several training steps, against values recorded from the authors' own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Batch, Method, NetworkInfo, Outputs, Setting
from tests.helpers.golden import assert_golden, batch, fill, leaf, load, setting


def crd(arrays: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Method:
    """With the banks before the first step; `draw` gives the recorded entries of the batch that it is called for."""
    student, teacher = (NetworkInfo((), pooled_dim=arrays[key].shape[1]) for key in ("student", "teacher"))
    shapes = Setting("classification", 10, 200, student, teacher, arrays["targets"])
    method = methods.build("crd", shapes, dim=8, negatives=50)
    for side in ("s", "t"):
        method.get_buffer(f"bank_{side}").copy_(arrays[f"bank_{side}0"])
    entries = iter(load(f"crd_step{step}")["drawn"] for step in range(5))
    monkeypatch.setattr(method, "draw", lambda batch: next(entries))
    return method


def test_crd_over_five_steps_with_its_banks(monkeypatch: pytest.MonkeyPatch) -> None:
    method = crd(load("crd_step0"), monkeypatch)
    for step in range(5):
        arrays = load(f"crd_step{step}")
        for side in ("s", "t"):
            weight, bias = arrays[f"w{side}"], arrays[f"b{side}"]
            fill(method, **{f"embed_{side}__weight": weight, f"embed_{side}__bias": bias})
        samples = batch(8, arrays["targets"][arrays["index"]], arrays["index"])
        student = leaf(arrays["student"])
        outputs = [Outputs(torch.zeros(8, 10), (), pooled=pooled) for pooled in (student, arrays["teacher"])]
        loss = method(samples, *outputs)["crd"]
        leaves = {"student": student} | {f"w{side}": method.get_parameter(f"embed_{side}.weight") for side in "st"}
        assert_golden(loss, arrays["loss"], {name: (x, arrays[f"grad_{name}"]) for name, x in leaves.items()})
        for side in ("s", "t"):
            torch.testing.assert_close(method.get_buffer(f"bank_{side}"), arrays[f"bank_{side}_after"])
        torch.testing.assert_close(method.get_buffer("z"), arrays["z"])


def granularity(name: str, arrays: dict[str, Tensor]) -> Method:
    infos = [NetworkInfo((1, 6), (1, 1), pooled_dim=arrays[side].shape[1]) for side in ("s", "t")]
    method = methods.build(name, setting(*infos))
    for side, module in (("S_", "student_modules"), ("T_", "teacher_modules")):
        recorded: dict[str, Any] = {}
        for key, array in arrays.items():
            if key.startswith(side):
                ours = key.removeprefix(side).replace("ak_", "abstract_").replace("dk_", "detailed_")
                recorded[ours.replace(".", "__")] = array
        fill(method.get_submodule(module), **recorded)
    return method


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("name", ["mag_kd", "mag_at", "mas_kd", "mas_at"])
def test_mag_and_mas_with_the_task_loss(name: str, step: int) -> None:
    arrays = load(f"{name}_step{step}")
    method = granularity(name.replace("_", "+"), arrays)
    pooled = leaf(arrays["s"])
    logits = F.linear(pooled, arrays["ws"], arrays["bs"])
    stem = torch.zeros(8, 1, 1, 1)
    student = Outputs(logits, (stem, arrays["fs"]), pooled=pooled)
    teacher = Outputs(arrays["zt"], (stem, arrays["ft"]), pooled=arrays["t"])
    samples: Batch = batch(8, arrays["y"])
    task = method.task_weight * F.cross_entropy(logits, arrays["y"])
    total = torch.stack([task, *method(samples, student, teacher).values()]).sum()
    assert_golden(total, arrays["loss"], {"s": (pooled, arrays["grad_s"])})
