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


def test_initial_loss_compares_stem_to_last_stage_without_weight(equal_widths: Any) -> None:
    method = methods.build("fsp", equal_widths.setting)
    maps = zip(equal_widths.student.features, equal_widths.teacher.features, strict=True)
    (s0, t0), (s1, t1), (s2, t2), (s3, t3) = maps
    pairs = ((s0, s1, t0, t1), (s1, s2, t1, t2), (s2, s3, t2, t3))
    total = sum((gram(a, b) - gram(c, d)).square().mean().item() for a, b, c, d in pairs)
    assert initial(method, equal_widths).item() == pytest.approx(total, rel=1e-5)
    assert initial(method, replace(equal_widths, student=equal_widths.teacher)) == 0


def test_the_task_is_learned_without_the_loss_unless_joint(equal_widths: Any) -> None:
    method = methods.build("fsp", equal_widths.setting)
    assert method.initial_epochs == 30
    assert method(equal_widths.batch, equal_widths.student, equal_widths.teacher) == {}
    joint = methods.build("fsp", equal_widths.setting, joint=True)
    value = joint(equal_widths.batch, equal_widths.student, equal_widths.teacher)["fsp"].item()
    assert value == pytest.approx(50 * initial(joint, equal_widths).item())


def test_moving_all_maps_alike_changes_nothing(equal_widths: Any) -> None:
    method = methods.build("fsp", equal_widths.setting)
    flipped = replace(equal_widths.student, features=tuple(x.flip(2, 3) for x in equal_widths.student.features))
    assert initial(method, replace(equal_widths, student=flipped)).item() == pytest.approx(
        initial(method, equal_widths).item()
    )


def test_faults_are_named(sample: Any, equal_widths: Any) -> None:
    with pytest.raises(MethodError, match=r"widths of student and teacher must be equal.*deeper but not wider"):
        methods.build("fsp", sample("classification").setting)
    with pytest.raises(MethodError, match="initial_epochs is 0"):
        methods.build("fsp", equal_widths.setting, initial_epochs=0)
    lone = NetworkInfo((6,))
    with pytest.raises(MethodError, match="at least two features"):
        methods.build("fsp", replace(equal_widths.setting, student=lone, teacher=lone))
