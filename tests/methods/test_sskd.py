"""SSKD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError, Outputs
from kdbench.methods.sskd import kept_rows

Make = Callable[..., Any]


def test_keeps_right_answers_and_a_share_of_the_nearest_wrong_ones() -> None:
    scores = torch.eye(4)[[0, 0, 1, 1, 2]] + torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    answers = torch.tensor([0, 1, 1, 3, 3])  # ranks 0, 1, 0, 3, 3
    kept = {ratio: kept_rows(scores, answers, ratio).tolist() for ratio in (0.0, 0.34, 0.7, 1.0)}
    assert kept[0.0] == [True, False, True, False, False]
    assert kept[0.34] == [True, True, True, False, False]
    assert kept[0.7] == [True, True, True, True, False]  # of one rank, the first of the batch
    assert all(kept[1.0])


def test_asks_for_three_rotations_in_one_forward() -> None:
    assert methods.views("sskd") == ("rotated_90", "rotated_180", "rotated_270")
    assert methods.joint_views("sskd") and not methods.joint_views("mlkd")


def test_prepare_trains_the_teacher_s_head_alone(sample: Make) -> None:
    data = sample("classification")
    data = replace(data, setting=replace(data.setting, steps_per_epoch=20))
    torch.manual_seed(0)
    method = methods.build("sskd", data.setting, module_epochs=2, module_lr=0.5)
    views = {
        name: replace(view, inputs=torch.full((4, 3, 8, 8), float(i)))
        for i, (name, view) in enumerate(data.batch.views.items(), 1)
    }
    batch = replace(data.batch, views=views)
    outputs = [data.teacher, *(data.teacher.views[name] for name in views)]

    def teacher(inputs: torch.Tensor) -> Outputs:
        return replace(outputs[int(inputs.flatten()[0])].detach(), views={})

    student = {name: value.clone() for name, value in method.head_s.state_dict().items()}
    before = method.head_loss(data.teacher).item()
    method.prepare(teacher, repeat(batch))
    assert method.head_loss(data.teacher).item() < 0.8 * before
    assert all(torch.equal(value, student[name]) for name, value in method.head_s.state_dict().items())
    assert not any(parameter.requires_grad for parameter in method.head_t.parameters())


def test_senseless_settings_are_refused(sample: Make) -> None:
    setting = sample("classification").setting
    for options, message in (
        ({"rotated_ratio": 1.5}, "rotated_ratio is 1.5; it must be from 0 to 1"),
        ({"similarity_temperature": 0.0}, "similarity_temperature is 0.0"),
        ({"module_epochs": -1}, "module_epochs is -1"),
    ):
        with pytest.raises(MethodError, match=message):
            methods.build("sskd", setting, **options)
    with pytest.raises(MethodError, match="needs pooled features"):
        methods.build("sskd", replace(setting, teacher=replace(setting.teacher, pooled_dim=None)))
