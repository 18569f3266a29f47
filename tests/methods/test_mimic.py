"""Mean squared error of features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError, NetworkInfo


def test_is_the_sum_of_the_levels_means(plain: Any) -> None:
    method = methods.build("mimic", plain.setting, weight=3.0, align=None)
    means = [(s - t).square().mean() for s, t in zip(plain.student.features, plain.teacher.features, strict=True)]
    loss = method(plain.batch, plain.student, plain.teacher)["mimic"]
    assert loss.item() == pytest.approx(3 * sum(means).item())


def test_aligns_each_level_with_its_own_convolution(dense: Any) -> None:
    method = methods.build("mimic", dense.setting)
    shapes = [tuple(parameter.shape) for parameter in method.parameters()]
    assert shapes == [(6, 4, 1, 1), (6,)] * 2


def test_a_convolution_may_have_no_bias(dense: Any) -> None:
    method = methods.build("mimic", dense.setting, align="conv1x1_no_bias")
    assert [tuple(parameter.shape) for parameter in method.parameters()] == [(6, 4, 1, 1)] * 2


def test_an_unknown_alignment_is_refused(dense: Any) -> None:
    with pytest.raises(MethodError, match="align is 'linear'; use one of 'conv1x1', .*'conv1x1_if_unequal' or null"):
        methods.build("mimic", dense.setting, align="linear")


def test_refuses_maps_that_torch_would_broadcast(plain: Any) -> None:
    teacher = replace(plain.teacher, features=tuple(f.mean(dim=(2, 3), keepdim=True) for f in plain.teacher.features))
    method = methods.build("mimic", plain.setting, align=None)
    with pytest.raises(MethodError, match=r"level 0 have shape \(2, 6, 6, 5\) and the teacher's \(2, 6, 1, 1\)"):
        method(plain.batch, plain.student, teacher)


def test_different_widths_need_alignment(dense: Any) -> None:
    with pytest.raises(MethodError, match="use 'conv1x1'"):
        methods.build("mimic", dense.setting, align=None)


def test_different_numbers_of_levels_are_refused(sample: Callable[..., Any]) -> None:
    one, two = sample("dense", sizes=((3, 3),)).setting, sample("dense").setting
    with pytest.raises(MethodError, match="the student has 1 features and the teacher 2"):
        methods.build("mimic", replace(two, student=one.student))


def test_is_zero_for_equal_features_and_not_otherwise(plain: Any) -> None:
    method = methods.build("mimic", plain.setting, align=None)
    assert method(plain.batch, plain.teacher, plain.teacher)["mimic"] == torch.zeros(())
    assert method(plain.batch, plain.student, plain.teacher)["mimic"] > 0.1


def test_segmentation_compares_the_map_before_the_classifier_alone(sample: Callable[..., Any]) -> None:
    data = sample("segmentation", widths=(6, 6))
    method = methods.build("mimic", data.setting, align=None)
    expected = (data.student.features[-1] - data.teacher.features[-1]).square().mean().item()
    assert method(data.batch, data.student, data.teacher)["mimic"].item() == pytest.approx(expected)
    wider = methods.build("mimic", sample("segmentation").setting)
    assert [tuple(parameter.shape) for parameter in wider.parameters()] == [(6, 4, 1, 1), (6,)]


def test_segmenters_may_show_different_numbers_of_features(sample: Callable[..., Any]) -> None:
    data = sample("segmentation")
    fewer = NetworkInfo(data.setting.student.channels[2:], data.setting.student.strides[2:])
    student = replace(data.student, features=data.student.features[2:])
    method = methods.build("mimic", replace(data.setting, student=fewer))
    assert method(data.batch, student, data.teacher)["mimic"].isfinite()
