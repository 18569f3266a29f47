"""L1 between box outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdbench import methods
from kdbench.methods.base import MethodError


def test_is_the_sum_of_the_levels_mean_differences(dense: Any) -> None:
    method = methods.build("box_l1", dense.setting, weight=2.0)
    means = [(s - t).abs().mean() for s, t in zip(dense.student.boxes, dense.teacher.boxes, strict=True)]
    loss = method(dense.batch, dense.student, dense.teacher)["box_l1"]
    assert loss.item() == pytest.approx(2 * sum(means).item(), rel=1e-5)


def test_beta_makes_it_smooth(dense: Any) -> None:
    method = methods.build("box_l1", dense.setting, beta=0.5)
    pairs = zip(dense.student.boxes, dense.teacher.boxes, strict=True)
    expected = 0.0
    for student, teacher in pairs:
        gap = (student - teacher).abs()
        expected += torch.where(gap < 0.5, gap.square(), gap - 0.25).mean().item()
    loss = method(dense.batch, dense.student, dense.teacher)["box_l1"]
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_two_stage_detectors_compare_the_roi_head(sample: Callable[..., Any]) -> None:
    data = sample("two-stage")
    method = methods.build("box_l1", data.setting)
    expected = F.l1_loss(data.student.extra["roi_boxes"], data.teacher.extra["roi_boxes"])
    loss = method(data.batch, data.student, data.teacher)["box_l1"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_proposals_it_is_zero(sample: Callable[..., Any]) -> None:
    data = sample("two-stage")
    for outputs in (data.student, data.teacher):
        outputs.extra["roi_boxes"] = outputs.extra["roi_boxes"][:0]
    loss = methods.build("box_l1", data.setting)(data.batch, data.student, data.teacher)["box_l1"]
    assert loss.item() == 0


def test_class_agnostic_boxes_do_not_match_the_others(sample: Callable[..., Any]) -> None:
    data = sample("two-stage")
    data.teacher.extra["roi_boxes"] = data.teacher.extra["roi_boxes"][:, :4]
    with pytest.raises(MethodError, match=r"roi_boxes have shape \(7, 24\) and the teacher's \(7, 4\)"):
        methods.build("box_l1", data.setting)(data.batch, data.student, data.teacher)


def test_a_network_without_boxes_is_refused(dense: Any) -> None:
    method = methods.build("box_l1", dense.setting)
    with pytest.raises(MethodError, match="0 levels of box outputs"):
        method(dense.batch, replace(dense.student, boxes=()), dense.teacher)


def test_beta_must_not_be_negative(dense: Any) -> None:
    with pytest.raises(MethodError, match="beta is -1"):
        methods.build("box_l1", dense.setting, beta=-1)
