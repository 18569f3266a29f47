"""Channel-wise distillation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdbench import methods
from kdbench.methods.base import MethodError


def loss(data: Any, student: Any, **options: Any) -> float:
    method = methods.build("cwd", data.setting, align=None, **options)
    return method(data.batch, student, data.teacher)["cwd"].item()


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_is_the_mean_divergence_of_the_channels_summed_over_levels(plain: Any, tau: float) -> None:
    expected = 0.0
    for student, teacher in zip(plain.student.features, plain.teacher.features, strict=True):
        p, q = (f.flatten(0, 1).flatten(1).div(tau).softmax(dim=1) for f in (student, teacher))
        expected += tau**2 * (q * (q / p).log()).sum(dim=1).mean().item()
    assert loss(plain, plain.student, tau=tau) == pytest.approx(expected, rel=1e-5)
    assert loss(plain, plain.student, tau=tau, weight=7.5) == pytest.approx(7.5 * expected, rel=1e-5)


def test_a_shift_of_whole_channels_costs_nothing_and_a_scale_does(plain: Any) -> None:
    shifted = replace(plain.teacher, features=tuple(f + 3 for f in plain.teacher.features))
    scaled = replace(plain.teacher, features=tuple(f * 3 for f in plain.teacher.features))
    assert loss(plain, shifted) == pytest.approx(0, abs=1e-5)
    assert loss(plain, scaled) > 0.1


def test_segmentation_reads_the_last_feature_and_the_logits(sample: Any) -> None:
    data = sample("segmentation", widths=(6, 6))
    method = methods.build("cwd", data.setting, align=None, weight=50.0, tau=4.0, logits_weight=3.0)
    terms = method(data.batch, data.student, data.teacher)
    expected = {}
    for name, weight, of in (
        ("cwd", 50, lambda shown: shown.features[-1]),
        ("cwd_logits", 3, lambda shown: shown.logits),
    ):
        p, q = (of(shown).detach().double().div(4).flatten(2).softmax(dim=2) for shown in (data.student, data.teacher))
        expected[name] = weight * 16 * (q * (q / p).log()).sum(dim=2).mean().item()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    terms["cwd"].backward()
    assert [feature.grad is not None for feature in data.student.features] == [False] * 5 + [True]
    assert data.student.logits.grad is None
    assert data.student.features[-1].grad.any()


def test_without_a_weight_there_is_no_term_of_the_logits(sample: Any) -> None:
    data = sample("segmentation")
    method = methods.build("cwd", data.setting)
    assert list(method(data.batch, data.student, data.teacher)) == ["cwd"]
    with pytest.raises(MethodError, match="logits_weight has no effect in detection; set it to 0"):
        methods.build("cwd", sample("dense").setting, logits_weight=3.0)


def test_maps_of_different_size_are_refused(sample: Any) -> None:
    data = sample("segmentation")
    smaller = replace(data.teacher, features=tuple(feature[:, :, ::2] for feature in data.teacher.features))
    with pytest.raises(MethodError, match=r"cwd: .*level 0 have shape \(2, 6, 6, 8\) and the teacher's \(2, 6, 3, 8\)"):
        methods.build("cwd", data.setting)(data.batch, data.student, smaller)


def test_tau_must_be_positive(plain: Any) -> None:
    with pytest.raises(MethodError, match="tau is 0"):
        methods.build("cwd", plain.setting, tau=0)
