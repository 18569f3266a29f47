"""Flow between stages: the Gram matrices, the initial loss, faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError, NetworkInfo
from kdbench.methods.fsp import gram


@pytest.fixture
def equal(sample: Any) -> Any:
    return sample("classification", widths=(6, 6))


def initial(method: Any, data: Any) -> Tensor:
    return method(data.batch, data.student, data.teacher, initial=True)["fsp"]


@pytest.mark.parametrize("first_is_larger", [True, False])
def test_gram_pools_the_larger_map(first_is_larger: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    large, small = torch.randn(2, 3, 4, 6, generator=generator), torch.randn(2, 5, 2, 3, generator=generator)
    pooled = large.view(2, 3, 2, 2, 3, 2).mean(dim=(3, 5))
    a, b = (pooled, small) if first_is_larger else (small, pooled)
    expected = torch.stack([x.flatten(1) @ y.flatten(1).T / 6 for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(gram(large, small) if first_is_larger else gram(small, large), expected)


def test_initial_loss_compares_stem_to_last_stage_without_weight(equal: Any) -> None:
    method = methods.build("fsp", equal.setting)
    maps = zip(equal.student.features, equal.teacher.features, strict=True)
    (s0, t0), (s1, t1), (s2, t2), (s3, t3) = maps
    pairs = ((s0, s1, t0, t1), (s1, s2, t1, t2), (s2, s3, t2, t3))
    total = sum((gram(a, b) - gram(c, d)).square().mean().item() for a, b, c, d in pairs)
    assert initial(method, equal).item() == pytest.approx(total, rel=1e-5)
    assert initial(method, replace(equal, student=equal.teacher)) == 0


def test_the_task_is_learned_without_the_loss_unless_joint(equal: Any) -> None:
    method = methods.build("fsp", equal.setting)
    assert method.initial_epochs == 30
    assert method(equal.batch, equal.student, equal.teacher) == {}
    joint = methods.build("fsp", equal.setting, joint=True)
    value = joint(equal.batch, equal.student, equal.teacher)["fsp"].item()
    assert value == pytest.approx(50 * initial(joint, equal).item())


def test_moving_all_maps_alike_changes_nothing(equal: Any) -> None:
    method = methods.build("fsp", equal.setting)
    flipped = replace(equal.student, features=tuple(x.flip(2, 3) for x in equal.student.features))
    assert initial(method, replace(equal, student=flipped)).item() == pytest.approx(initial(method, equal).item())


def test_faults_are_named(sample: Any, equal: Any) -> None:
    with pytest.raises(MethodError, match=r"widths of student and teacher must agree.*deeper, not wider"):
        methods.build("fsp", sample("classification").setting)
    with pytest.raises(MethodError, match="initial_epochs is 0"):
        methods.build("fsp", equal.setting, initial_epochs=0)
    lone = NetworkInfo((6,))
    with pytest.raises(MethodError, match="at least two features"):
        methods.build("fsp", replace(equal.setting, student=lone, teacher=lone))
