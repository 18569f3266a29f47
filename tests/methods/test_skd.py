"""Pair-wise similarities of an image's places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError, Outputs
from kdbench.methods.skd import similarities

Make = Callable[..., Any]


def loss(data: Any, **options: Any) -> Tensor:
    return methods.build("skd", data.setting, **options)(data.batch, data.student, data.teacher)["skd"]


def changed(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    return replace(outputs, features=tuple(change(feature) for feature in outputs.features))


def naive(feature: Tensor) -> list[list[list[float]]]:
    """Cosines of the cells of each image, one pair at a time."""
    images, _, height, width = feature.shape
    found = []
    for image in feature.detach().double():
        cells = [
            image[:, y : y + 2, x : x + 2].amax(dim=(1, 2)) for y in range(0, height, 2) for x in range(0, width, 2)
        ]
        found.append([[(a @ b / a.norm() / b.norm()).item() for b in cells] for a in cells])
    assert len(found) == images
    return found


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_loss_is_the_mean_squared_difference_of_cosines(size: tuple[int, int], segmenters: Any) -> None:
    height, width = size
    for side in ("student", "teacher"):
        setattr(segmenters, side, changed(getattr(segmenters, side), lambda feature: feature[:, :, :height, :width]))
    pairs = [torch.tensor(naive(shown.features[-1])) for shown in (segmenters.student, segmenters.teacher)]
    expected = (pairs[0] - pairs[1]).square().mean().item()
    assert loss(segmenters).item() == pytest.approx(10 * expected, rel=1e-5)
    assert loss(segmenters, weight=3.0).item() == pytest.approx(3 * expected, rel=1e-5)


def test_similarities_are_cosines_of_cells_rounded_up() -> None:
    torch.manual_seed(0)
    found = similarities(torch.randn(3, 5, 5, 7))
    assert found.shape == (3, 12, 12)
    assert torch.allclose(found.diagonal(dim1=1, dim2=2), torch.ones(3, 12))
    assert torch.equal(found, found.mT)


def test_scale_and_order_of_channels_do_not_matter(segmenters: Any) -> None:
    same = replace(segmenters, student=changed(segmenters.teacher, lambda feature: 3 * feature.flip(1)))
    assert loss(same).item() == pytest.approx(0, abs=1e-6)
    assert loss(segmenters).item() > 0.1


def test_only_the_map_before_the_classifier_is_read(segmenters: Any) -> None:
    loss(segmenters).backward()
    assert [feature.grad is not None for feature in segmenters.student.features] == [False] * 5 + [True]


def test_maps_of_different_size_are_refused(segmenters: Any) -> None:
    other = replace(segmenters, teacher=changed(segmenters.teacher, lambda feature: feature[:, :, ::2]))
    with pytest.raises(MethodError, match="skd: the student's last feature is 6x8 and the teacher's 3x8"):
        loss(other)
