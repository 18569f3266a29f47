"""PKD: compares what a channel does over positions, whatever its scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import MethodError, NetworkInfo, Outputs
from tests.helpers.golden import batch, setting


def maps(*sizes: int, images: int = 2, channels: int = 4, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(images, channels, size, size, generator=generator) for size in sizes)


def loss(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], **options: Any) -> float:
    infos = [NetworkInfo(tuple(x.shape[1] for x in levels)) for levels in (student, teacher)]
    method = methods.build("pkd", setting(*infos, "detection"), **options)
    (term,) = method(batch(2), Outputs((), student), Outputs((), teacher)).values()
    return float(term)


def test_scale_and_offset_of_a_channel_do_not_count() -> None:
    student, teacher = maps(6), maps(6, seed=1)
    factors = torch.tensor([0.5, 2.0, 7.0, 1.0])[:, None, None]
    assert loss((factors * teacher[0] - 3,), teacher) == pytest.approx(0, abs=1e-6)
    assert loss((factors * student[0] + 5,), teacher) == pytest.approx(loss(student, teacher), rel=1e-4)


def test_a_channel_adds_one_minus_its_correlation() -> None:
    student, teacher = maps(8, channels=1), maps(8, channels=1, seed=1)
    correlation = torch.corrcoef(torch.stack([student[0].flatten(), teacher[0].flatten()]))[0, 1].item()
    count = student[0].numel()
    expected = 6 * (1 - correlation) * (count - 1) / count
    assert loss(student, teacher) == pytest.approx(expected, rel=1e-4)


def test_the_first_levels_alone_are_compared() -> None:
    student, teacher = maps(8, 6, 4, 3, 2), maps(8, 6, 4, 3, 2, seed=1)
    assert loss(student, teacher) == pytest.approx(loss(student[:4], teacher[:4]))
    assert loss(student, teacher, levels=9) > loss(student, teacher)


def test_either_map_is_resized() -> None:
    student, teacher = maps(4), maps(8, seed=1)
    enlarged = torch.nn.functional.interpolate(student[0], (8, 8), mode="bilinear", align_corners=False)
    assert loss(student, teacher) == pytest.approx(loss((enlarged,), teacher))
    assert loss(student, teacher, resize_student=False) != pytest.approx(loss(student, teacher), rel=1e-2)


def test_a_chunk_of_images_has_statistics_of_its_own() -> None:
    (student,), (teacher,) = maps(4, images=5), maps(4, images=5, seed=1)
    parts = [loss((student[i : i + 2],), (teacher[i : i + 2],)) for i in (0, 2, 4)]
    assert loss((student,), (teacher,), chunk=2) == pytest.approx(sum(parts) / 3)
    assert loss((student,), (teacher,), chunk=9) == loss((student,), (teacher,))
    assert loss((student,), (teacher,)) != pytest.approx(sum(parts) / 3, rel=1e-2)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(MethodError, match="level 0 is 1x1 for a single image"):
        loss(maps(1, images=1), maps(1, images=1, seed=1))
    with pytest.raises(MethodError, match="level 0 is 1x1 for a single image"):
        loss(maps(1, images=3), maps(1, images=3, seed=1), chunk=2)
    with pytest.raises(MethodError, match="chunk is 0"):
        loss(maps(4), maps(4), chunk=0)
    with pytest.raises(MethodError, match="levels is 0"):
        loss(maps(4), maps(4), levels=0)
    with pytest.raises(MethodError, match="align is null but widths differ"):
        loss(maps(4, channels=3), maps(4), align=None)
