"""Masked generative distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kdbench import methods
from kdbench.methods.base import MethodError


def test_is_the_squared_error_of_an_image_summed(plain: Any) -> None:
    method = methods.build("masked_generative", plain.setting, weight=0.5, mask_ratio=0.0, align=None)
    method.generators = nn.ModuleList([nn.Identity(), nn.Identity()])
    pairs = zip(plain.student.features, plain.teacher.features, strict=True)
    expected = 0.5 * sum((s - t).square().sum().item() for s, t in pairs) / 2
    loss = method(plain.batch, plain.student, plain.teacher)["masked_generative"]
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_mask_hides_its_share_of_positions_from_all_channels(sample: Callable[..., Any]) -> None:
    data = sample("dense", widths=(6, 6), sizes=((64, 64),))
    method = methods.build("masked_generative", data.setting, align=None)
    seen = []
    method.generators[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    torch.manual_seed(0)
    for _ in range(2):
        method(data.batch, data.student, data.teacher)
    hidden = seen[0] == 0
    assert torch.equal(hidden.all(dim=1), hidden.any(dim=1))
    assert hidden.float().mean().item() == pytest.approx(0.65, abs=0.02)
    assert torch.equal(seen[0][~hidden], data.student.features[0][~hidden])
    assert not torch.equal(hidden, seen[1] == 0)


def test_only_features_of_unequal_widths_have_a_convolution(dense: Any, plain: Any) -> None:
    unequal, equal = (methods.build("masked_generative", data.setting) for data in (dense, plain))
    assert [tuple(p.shape) for p in unequal.align.parameters()] == [(6, 4, 1, 1), (6,)] * 2
    assert not list(equal.align.parameters())
    assert equal.aligned(plain.student, 0) is plain.student.features[0]


def test_generators_train_unless_told_otherwise(dense: Any) -> None:
    trained = methods.build("masked_generative", dense.setting)
    frozen = methods.build("masked_generative", dense.setting, train_generator=False)
    assert all(p.requires_grad for p in trained.generators.parameters())
    assert not any(p.requires_grad for p in frozen.generators.parameters())
    frozen(dense.batch, dense.student, dense.teacher)["masked_generative"].backward()
    assert dense.student.features[0].grad.any()


def test_mask_ratio_must_be_a_share(dense: Any) -> None:
    with pytest.raises(MethodError, match="between 0 and 1"):
        methods.build("masked_generative", dense.setting, mask_ratio=65)


def test_segmentation_has_one_generator_for_the_last_feature(sample: Callable[..., Any]) -> None:
    data = sample("segmentation")
    method = methods.build("masked_generative", data.setting)
    assert [generator[0].in_channels for generator in method.generators] == [6]
    method(data.batch, data.student, data.teacher)["masked_generative"].backward()
    assert [feature.grad is not None for feature in data.student.features] == [False] * 5 + [True]
