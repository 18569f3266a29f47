"""BPKD: what is a boundary, and which term sees it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import IGNORE_INDEX, Method, MethodError, NetworkInfo, Outputs
from kdbench.methods.bpkd import edge_masks
from tests.helpers.golden import batch, setting


def build(**options: Any) -> Method:
    info = NetworkInfo(())
    return methods.build("bpkd", setting(info, info, "segmentation", classes=3), **options)


def halves() -> Tensor:
    """Class 0 at the left and class 1 at the right of 16 columns."""
    return (torch.arange(16) >= 8).long().expand(1, 16, 16).clone()


def test_the_boundary_is_as_wide_as_the_radius_on_both_sides() -> None:
    edges = edge_masks(halves(), 3, 2, (16, 16))
    assert edges[0, :2].sum(dim=(1, 2)).tolist() == [64, 64] and not edges[0, 2].any()
    assert edges[0, 0, 0].nonzero().flatten().tolist() == [6, 7, 8, 9]


def test_the_border_of_the_image_is_no_boundary() -> None:
    assert not edge_masks(torch.zeros(1, 16, 16, dtype=torch.long), 3, 3, (4, 4)).any()


def test_ignored_pixels_are_no_edge_and_masks_are_averaged() -> None:
    targets = halves()
    targets[:, :8] = IGNORE_INDEX
    edges = edge_masks(targets, 3, 3, (4, 4))
    assert not edges[0, :, :2].any()
    full = edge_masks(halves(), 3, 3, (16, 16))
    assert edges[0, 0, 3, 1].item() == pytest.approx(full[0, 0, 12:, 4:8].mean().item()) == 0.75


def test_without_a_boundary_the_body_alone_learns() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    data = batch(2, torch.zeros(2, 16, 16, dtype=torch.long))
    terms = build()(data, Outputs(student, ()), Outputs(teacher, ()))
    assert terms["edge"] == 0
    log_p, log_q = ((x / 4).flatten(2).log_softmax(dim=2) for x in (student, teacher))
    expected = 20 * 16 * (log_q.exp() * (log_q - log_p)).sum(dim=2).mean()
    assert terms["body"].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"), [({"temperature": 0.0}, "temperature is 0.0"), ({"radius": 0}, "radius 0")]
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        build(**options)
