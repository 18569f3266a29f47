"""Variation within classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import IGNORE_INDEX, MethodError


def loss(data: Any, **options: Any) -> Tensor:
    return methods.build("ifvd", data.setting, **options)(data.batch, data.student, data.teacher)["ifvd"]


def naive(feature: Tensor, labels: Tensor) -> list[float]:
    """Each pixel's cosine to the mean of its class in its image, one pixel at a time; 0 without a class."""
    found = []
    for image, own in zip(feature.detach().double(), labels, strict=True):
        for y in range(own.shape[0]):
            for x in range(own.shape[1]):
                members = [image[:, v, u] for v, u in (own == own[y, x]).nonzero().tolist()]
                centre, pixel = torch.stack(members).mean(dim=0), image[:, y, x]
                cosine = (pixel @ centre / pixel.norm() / centre.norm()).item()
                found.append(0.0 if own[y, x] == IGNORE_INDEX else cosine)
    return found


def test_loss_is_the_mean_squared_difference_of_cosines_to_the_classes_centres(segmenters: Any) -> None:
    labels = segmenters.batch.targets[:, ::8, ::8]
    assert set(labels.unique().tolist()) == {0, 1, 2, 3, 4, IGNORE_INDEX}
    pairs = [torch.tensor(naive(shown.features[-1], labels)) for shown in (segmenters.student, segmenters.teacher)]
    expected = (pairs[0] - pairs[1]).square().mean().item()
    assert loss(segmenters).item() == pytest.approx(20 * expected, rel=1e-5)
    assert loss(segmenters, weight=3.0).item() == pytest.approx(3 * expected, rel=1e-5)


def test_gradient_goes_through_the_centres_and_not_to_void_pixels(segmenters: Any) -> None:
    segmenters.batch.targets[:] = 2
    segmenters.batch.targets[:, :, 8:16] = IGNORE_INDEX
    loss(segmenters).backward()
    gradients = [feature.grad for feature in segmenters.student.features]
    assert [gradient is not None for gradient in gradients] == [False] * 5 + [True]
    assert gradients[-1].isfinite().all()
    assert not gradients[-1][..., 1].any()
    # A pixel alone moves only its own cosine; with the centre it moves all others' too.
    feature = segmenters.student.features[-1].detach().double().requires_grad_()
    centre = feature.flatten(2)[..., [i for i in range(48) if i % 8 != 1]].mean(dim=2)
    own = torch.cosine_similarity(feature, centre[:, :, None, None], dim=1)
    other = segmenters.teacher.features[-1].detach().double()
    goal = other.flatten(2)[..., [i for i in range(48) if i % 8 != 1]].mean(dim=2)
    error = (own - torch.cosine_similarity(other, goal[:, :, None, None], dim=1)).square()
    error[..., torch.arange(8) != 1].sum().mul(20 / error.numel()).backward()
    assert torch.allclose(gradients[-1].double(), feature.grad, rtol=1e-4, atol=1e-6)


def test_void_pixels_add_nothing_and_count_in_the_mean(segmenters: Any) -> None:
    segmenters.batch.targets[:] = 0
    whole = loss(segmenters)
    segmenters.batch.targets[1] = IGNORE_INDEX
    first = replace(
        segmenters,
        batch=replace(segmenters.batch, targets=segmenters.batch.targets[:1]),
        student=replace(segmenters.student, features=(segmenters.student.features[-1][:1],)),
        teacher=replace(segmenters.teacher, features=(segmenters.teacher.features[-1][:1],)),
    )
    assert loss(segmenters).item() == pytest.approx(loss(first).item() / 2, rel=1e-5)
    assert loss(segmenters) < whole
    segmenters.batch.targets[:] = IGNORE_INDEX
    nothing = loss(segmenters)
    nothing.backward()
    assert nothing == 0
    assert not segmenters.student.features[-1].grad.any()


def test_it_is_zero_for_equal_directions(segmenters: Any) -> None:
    scaled = replace(segmenters.teacher, features=tuple(3 * feature for feature in segmenters.teacher.features))
    assert loss(replace(segmenters, student=scaled)).item() == pytest.approx(0, abs=1e-9)
    assert loss(segmenters).item() > 0.1


def test_maps_and_masks_that_do_not_fit_are_refused(segmenters: Any) -> None:
    smaller = tuple(feature[..., ::2] for feature in segmenters.teacher.features)
    with pytest.raises(MethodError, match="ifvd: the student's last feature is 6x8 and the teacher's 6x4"):
        loss(replace(segmenters, teacher=replace(segmenters.teacher, features=smaller)))
    with pytest.raises(MethodError, match=r"ifvd: the targets must be masks \[N, H, W\]"):
        loss(replace(segmenters, batch=replace(segmenters.batch, targets=torch.zeros(2, dtype=torch.long))))
