"""FGD: which positions are foreground, and what its context blocks begin with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Batch, Method, MethodError, NetworkInfo, Outputs
from kdbench.methods.fgd import attention, box_masks, relative_boxes
from tests.helpers.golden import batch, setting

SIZE = torch.tensor([32, 64])
"""Height and width of an image."""


def truth(*boxes: tuple[float, float, float, float]) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes).view(-1, 4), "size": SIZE}


def masks(*targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Of maps with stride 8."""
    return box_masks(relative_boxes(batch(len(targets), list(targets))), 4, 8)  # type: ignore[arg-type]


def build(channels: tuple[int, int] = (4, 4), **options: Any) -> Method:
    return methods.build("fgd", setting(*(NetworkInfo((c,)) for c in channels), "detection"), **options)


def sample(channels: int = 4) -> tuple[Batch, Outputs, Outputs]:
    torch.manual_seed(0)
    data = batch(1, [truth((8.0, 8.0, 23.0, 15.0))])  # type: ignore[arg-type]
    return data, Outputs((), (torch.randn(1, channels, 4, 8),)), Outputs((), (torch.randn(1, 4, 4, 8),))


def test_a_box_covers_the_positions_that_it_touches() -> None:
    inside, outside = masks(truth((9.0, 9.0, 23.0, 15.0)))  # columns 1.1 to 2.9, rows 1.1 to 1.9
    expected = torch.zeros(4, 8)
    expected[1:3, 1:4] = 1 / 6
    assert torch.equal(inside[0], expected)
    assert torch.allclose(outside[0], (expected == 0) / 26)


def test_the_smaller_of_overlapping_boxes_counts() -> None:
    small, large = (8.0, 8.0, 16.0, 16.0), (0.0, 0.0, 64.0, 32.0)
    inside, outside = masks(truth(large, small))
    assert torch.equal(inside[0, 1:3, 1:3], torch.full((2, 2), 1 / 4))
    # The box of the whole image ends one position beyond the map, as released.
    assert inside[0, 0, 0] == 1 / (5 * 9) and not outside.any()


def test_images_have_their_own_boxes_and_one_without_is_all_background() -> None:
    box = (8.0, 8.0, 23.0, 15.0)
    inside, outside = masks(truth(), truth(box), truth(box, box))
    assert not inside[0].any() and torch.allclose(outside[0], torch.tensor(1 / 32))
    assert torch.equal(inside[1], inside[2]) and torch.equal(inside[1], masks(truth(box))[0][0])


def test_context_blocks_start_as_the_identity() -> None:
    data, student, teacher = sample()
    terms = build(relation_weight=1.0)(data, student, teacher)
    expected = (student.features[0] - teacher.features[0]).square().sum()
    assert terms["relation"].item() == pytest.approx(expected.item())


def test_equal_maps_have_no_loss_and_attention_has_mean_one() -> None:
    data, student, _ = sample()
    assert all(term == 0 for term in build()(data, student, student).values())
    for weights in attention(student.features[0], 0.5):
        assert weights.mean().item() == pytest.approx(1.0)


def test_a_convolution_aligns_other_widths_alone() -> None:
    assert list(build((3, 4)).align.parameters()) and not list(build().align.parameters())  # type: ignore[union-attr]
    data, student, teacher = sample(channels=3)
    assert build((3, 4))(data, student, teacher)["relation"] > 0


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        ((4, 4), {"temperature": 0.0}, "temperature is 0.0"),
        ((4, 4), {"levels": 0}, "levels is 0"),
        ((4, 1), {}, "each must have at least 2"),
    ],
)
def test_what_cannot_work_is_refused(channels: tuple[int, int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        build(channels, **options)
