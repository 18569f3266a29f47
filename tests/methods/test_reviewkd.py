"""Knowledge review: the way through the levels, the warm-up, faults. Its loss stands in test_golden.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError, NetworkInfo
from kdbench.methods.reviewkd import hierarchical_context


@pytest.fixture
def data(sample: Any) -> Any:
    return sample("classification")


def build(data: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return methods.build("reviewkd", data.setting, **options)


def loss(method: Any, data: Any) -> Tensor:
    return method(data.batch, data.student, data.teacher)["reviewkd"]


def test_levels_are_reviewed_from_deep_to_shallow(data: Any) -> None:
    method = build(data, warmup_epochs=0, weight=3.0)
    own = [*data.student.features[1:], data.student.pooled[:, :, None, None]]
    goals = [*data.teacher.extra["pre_activations"], data.teacher.pooled[:, :, None, None]]
    method.eval()
    total, travelling = torch.zeros(()), None
    for level in (3, 2, 1, 0):
        fusion, size = method.fusions[level], goals[level].shape[-1]
        mixed = fusion.enter(own[level])
        if travelling is not None:
            travelling = F.interpolate(travelling, (size, size))
            share = torch.cat([mixed, travelling], dim=1)
            share = F.conv2d(share, fusion.attention[0].weight, fusion.attention[0].bias).sigmoid()
            mixed = mixed * share[:, 0:1] + travelling * share[:, 1:2]
        travelling = mixed
        total = total + hierarchical_context(fusion.leave(mixed), goals[level])
    assert loss(method, data).item() == pytest.approx(3 * total.item(), rel=1e-5)


@pytest.mark.parametrize(("pooled", "mid"), [(256, 256), (64, 64), (1280, 512)])
def test_mid_channels_follow_the_students_pooled_feature(pooled: int, mid: int) -> None:
    with torch.device("meta"):
        fusion = _build_for(pooled).fusions[0]
    assert fusion.enter[0].out_channels == mid


def _build_for(pooled: int) -> Any:
    student, teacher = NetworkInfo((8, 8, 16), (1, 1, 2), pooled), NetworkInfo((8, 8, 16), (1, 1, 2), 16)
    setting = methods.base.Setting("classification", 5, 8, student, teacher)
    return methods.build("reviewkd", setting, warmup_epochs=0)


def test_pre_activations_of_the_student_are_an_option(data: Any) -> None:
    after, before = build(data), build(data, stu_preact=True)
    loss(after, data).backward()
    assert all(feature.grad is None for feature in data.student.extra["pre_activations"])
    assert data.student.features[0].grad is None  # the stem
    loss(before, data).backward()
    assert all(feature.grad.any() for feature in data.student.extra["pre_activations"])


def test_maps_of_other_sizes_meet_at_the_teachers(data: Any) -> None:
    maps = tuple(F.avg_pool2d(feature, 2) for feature in data.teacher.extra["pre_activations"])
    data.teacher.extra["pre_activations"] = maps
    assert loss(build(data), data).isfinite()


def test_warm_up_rises_with_the_epochs_of_training(data: Any) -> None:
    method, full = build(data, warmup_epochs=4), build(data, warmup_epochs=0)
    method.eval(), full.eval()
    whole = loss(full, data).item()
    method.fusions.requires_grad_(False)
    found = []
    for step in range(25):  # five steps an epoch
        method.set_progress(step, 5)
        found.append(loss(method, data).item() / whole)
    assert found == pytest.approx([0.25] * 5 + [0.5] * 5 + [0.75] * 5 + [1.0] * 10, rel=1e-5)


def test_context_is_zero_for_equal_maps_and_skips_sizes_not_below_the_maps() -> None:
    maps = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    other = maps + torch.tensor([1.0, -1.0])
    assert hierarchical_context(maps, maps) == 0
    assert hierarchical_context(maps, other).item() == pytest.approx(1 / 1.5)  # the 1x1 means agree
    assert hierarchical_context(maps[..., :1, :1], other[..., :1, :1]).item() == pytest.approx(1)


def test_faults_are_named(data: Any) -> None:
    with pytest.raises(MethodError, match="warmup_epochs is -1"):
        build(data, warmup_epochs=-1)
    with pytest.raises(MethodError, match="pooled_dim of a network is unknown"):
        methods.build("reviewkd", replace(data.setting, teacher=NetworkInfo((6, 6, 12, 24))))
    with pytest.raises(MethodError, match="stages"):
        methods.build("reviewkd", replace(data.setting, teacher=NetworkInfo((6, 6, 12), pooled_dim=12)))
    bare = replace(data.teacher, extra={})
    with pytest.raises(MethodError, match="the teacher 1"):
        build(data)(data.batch, data.student, bare)
