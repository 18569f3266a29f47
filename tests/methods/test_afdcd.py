"""Af-DCD: what is contrasted with what, and the mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Method, MethodError, NetworkInfo, Outputs
from tests.helpers.golden import batch, setting


def build(channels: tuple[int, int] = (8, 8), **options: Any) -> Method:
    torch.manual_seed(0)
    infos = [NetworkInfo((c, 1)) for c in channels]
    return methods.build("afdcd", setting(*infos, "segmentation"), **{"groups": 4, "pool": 1, **options})


def outputs(feature: Tensor) -> Outputs:
    torch.manual_seed(5)
    return Outputs(torch.randn(len(feature), 10, 2, 2), (feature, torch.zeros(len(feature), 1, 1, 1)))


def by_loops(rebuilt: Tensor, teacher: Tensor, pool: int, groups: int, tau: float) -> Tensor:
    """The contrast as it is written in the class."""
    rebuilt, teacher = F.max_pool2d(rebuilt, pool), F.max_pool2d(teacher, pool)
    images, channels, height, width = rebuilt.shape
    per_group, rows, columns = channels // groups, min(4, height), min(4, width)
    height, width = height - height % rows, width - width % columns
    total = rebuilt.new_zeros(())
    for n in range(images):
        for y, x, g in ((y, x, g) for y in range(height) for x in range(width) for g in range(groups)):
            entry = rebuilt[n, g * per_group : (g + 1) * per_group, y, x]

            def score(group: int, row: int, column: int, n: int = n, entry: Tensor = entry) -> Tensor:
                other = teacher[n, group * per_group : (group + 1) * per_group, row, column]
                return -(entry - other).abs().sum() / tau

            top, left = y - y % rows, x - x % columns
            inside = [(r, c) for r in range(top, top + rows) for c in range(left, left + columns)]
            negatives = [score(other, r, c) for other in range(groups) if other != g for r, c in inside]
            scores = torch.stack([score(g, y, x), *negatives])
            total = total - scores.log_softmax(dim=0)[0]
    return total / (images * height * width)


@pytest.mark.parametrize(("size", "pool"), [((8, 12), 1), ((9, 5), 1), ((16, 8), 4), ((10, 9), 2)])
def test_the_contrast_is_that_of_the_formula(size: tuple[int, int], pool: int) -> None:
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(2, 8, *size, generator=generator, dtype=torch.float64) for _ in range(2)]
    rebuilt, expected = (values[0].clone().requires_grad_() for _ in range(2))
    found = build(pool=pool, tau=0.5).contrast(rebuilt, values[1])  # type: ignore[operator]
    reference = by_loops(expected, values[1], pool, groups=4, tau=0.5)
    torch.testing.assert_close(found, reference)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, x)[0] for loss, x in ((found, rebuilt), (reference, expected)))
    )


def test_masked_positions_are_not_read() -> None:
    feature = torch.randn(2, 8, 32, 32)
    shown: list[Tensor] = []
    method = build(mask_ratio=0.75)
    method.generator.register_forward_pre_hook(lambda _module, inputs: shown.append(inputs[0]))  # type: ignore[operator]
    torch.manual_seed(3)
    first = method.rebuilt(feature)  # type: ignore[operator]
    visible = (shown[0] != 0).any(dim=1)
    assert torch.equal(shown[0], feature * visible[:, None])
    assert visible.float().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.manual_seed(3)
    assert torch.equal(method.rebuilt(feature), first)  # type: ignore[operator]
    assert not torch.equal(method.rebuilt(feature), first)  # type: ignore[operator]


def test_the_backbones_last_map_is_read_and_layers_are_as_needed() -> None:
    method = build((4, 8), enhanced=True)
    student, teacher = torch.randn(2, 4, 8, 8, requires_grad=True), torch.randn(2, 8, 8, 8)
    terms = method(batch(2), outputs(student), outputs(teacher))
    terms["contrast"].backward()
    assert student.grad is not None and student.grad.any()
    assert terms["kd"].item() == pytest.approx(0, abs=1e-6)  # the logits are the same
    assert len(list(method.parameters())) == 2 + 8
    assert len(list(build().parameters())) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "tau is 0.0"),
        ({"mask_ratio": 1.5}, "mask_ratio 1.5"),
        ({"groups": 3}, "8 channels, which cannot be divided into 3 groups"),
        ({"pool": 0}, "pool is 0"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        build(**options)


def test_a_map_that_is_too_small_is_refused() -> None:
    feature = torch.randn(2, 8, 3, 8)
    with pytest.raises(MethodError, match="a map of 3x8 is smaller than pool 4"):
        build(pool=4)(batch(2), outputs(feature), outputs(feature))


def test_the_gradients_of_its_layers_are_clipped_together_also_in_a_sum() -> None:
    infos = [NetworkInfo((c, 1)) for c in (4, 16)]
    method = methods.build("afdcd+skd", setting(*infos, "segmentation"))
    ((parameters, norm),) = method.clip_norms()
    assert norm == 15 and {id(p) for p in parameters} == {id(p) for p in method.parameters()}
    assert not build(max_norm=None).clip_norms()
    with pytest.raises(MethodError, match="max_norm is 0.0"):
        build(max_norm=0.0)
