"""SDD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


def terms(name: str, data: Any, epoch: int = 40, **options: Any) -> dict[str, Tensor]:
    method = methods.build(name, data.setting, **options)
    method.set_progress(epoch, 1)
    return dict(method(data.batch, data.student, data.teacher))


def uniform(data: Any) -> Any:
    """Maps that are the same everywhere, with the logits of their classifiers."""
    outputs = {}
    for who in ("student", "teacher"):
        shown, info = getattr(data, who), getattr(data.setting, who)
        flat = shown.extra["last_map"].mean(dim=(2, 3), keepdim=True).expand(-1, -1, 4, 4)
        logits = info.classifier(flat[:, :, 0, 0])
        outputs[who] = replace(shown, logits=logits, extra=shown.extra | {"last_map": flat})
    return replace(data, **outputs)


@pytest.mark.parametrize("base", ["kd", "dkd"])
@pytest.mark.parametrize("grids", ["1,2", "1,2,4"])
def test_is_the_base_where_all_regions_are_alike(sample: Make, base: str, grids: str) -> None:
    data = uniform(sample("classification"))
    expected = sum(
        methods.build(base, data.setting, **({"warmup_epochs": 0} if base == "dkd" else {}))(
            data.batch, data.student, data.teacher
        ).values()
    )
    assert sum(terms(f"sdd+{base}", data, grids=grids).values()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_region_in_which_the_teacher_is_right_though_wrong_on_the_image_counts_twice(sample: Make) -> None:
    data = uniform(sample("classification"))
    column = torch.tensor([1.0, 1.0, -2.0, -2.0])[:, None]  # upper half and lower half of the map
    feature = data.teacher.extra["last_map"].detach().clone()
    feature[:, 0] = column
    with torch.no_grad():
        data.setting.teacher.classifier.weight.zero_()[4, 0] = 9.0
        data.setting.teacher.classifier.bias.copy_(torch.tensor([1.0, 0, 0, 0, 0]))
    data = replace(data, teacher=replace(data.teacher, extra={"last_map": feature}))

    def loss(label: int) -> float:
        """The terms of kd do not depend on the labels, their weights do."""
        batch = replace(data.batch, targets=torch.full((4,), label))
        return terms("sdd+kd", replace(data, batch=batch), grids="1,2")["kd"].item()

    # The teacher answers 4 in the upper half and 0 in the lower one and on the image.
    logits = {
        half: data.setting.teacher.classifier(feature[:, :, row, 0]) for half, row in (("upper", 0), ("lower", 3))
    }
    kd = methods.build("kd", data.setting)
    of = {h: kd(data.batch, data.student, replace(data.teacher, logits=z))["kd"].item() for h, z in logits.items()}
    assert loss(4) - loss(1) == pytest.approx(2 / 5 * of["upper"], rel=1e-4)
    assert loss(0) == pytest.approx(loss(4), rel=1e-6)


def test_gradients_reach_the_student_s_classifier_and_not_the_teacher_s(sample: Make) -> None:
    data = sample("classification")
    data.setting.student.classifier.requires_grad_(True)
    sum(terms("sdd+dkd", data).values()).backward()
    assert data.setting.student.classifier.weight.grad.abs().sum() > 0
    assert data.setting.teacher.classifier.weight.grad is None


def test_warms_up_as_released(sample: Make) -> None:
    data = sample("classification")
    for name, names in (("sdd+dkd", ("tckd", "nckd")), ("sdd+nkd", ("target", "non_target"))):
        first, full = terms(name, data, epoch=0), terms(name, data)
        assert tuple(full) == names
        assert all(first[term].item() == pytest.approx(full[term].item() / 20, rel=1e-5) for term in names)
    assert terms("sdd+kd", data, epoch=0)["kd"].item() == terms("sdd+kd", data)["kd"].item()
    assert methods.build("sdd+kd", data.setting).task_weight == 0.1
    assert methods.resolve("sdd+nkd", {})["gamma"] == 8.0


def test_senseless_settings_are_refused(sample: Make) -> None:
    setting = sample("classification").setting
    with pytest.raises(MethodError, match="grids is '1,3'; use '1,2' or '1,2,4'"):
        methods.build("sdd+kd", setting, grids="1,3")
    with pytest.raises(MethodError, match="nkd_warmup_epochs is -1"):
        methods.build("sdd+nkd", setting, nkd_warmup_epochs=-1)
    with pytest.raises(MethodError, match=r"sdd\+kd: nkd_warmup_epochs has an effect around nkd alone; leave it out"):
        methods.build("sdd+kd", setting, nkd_warmup_epochs=20)
    nameless = replace(setting, student=replace(setting.student, classifier=None))
    with pytest.raises(MethodError, match="needs the student's final linear layer"):
        methods.build("sdd+kd", nameless)
