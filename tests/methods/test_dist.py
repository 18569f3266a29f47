"""DIST beyond the golden values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import IGNORE_INDEX, MethodError, Outputs
from kdbench.methods.dist import correlation, inter_class, intra_class

Make = Callable[..., Any]


def loss(data: Any, **options: Any) -> Tensor:
    return methods.build("dist", data.setting, **options)(data.batch, data.student, data.teacher)["dist"]


def images(data: Any, start: int, stop: int) -> Any:
    """The sample's images from start to stop alone."""

    def cut(outputs: Outputs) -> Outputs:
        logits = outputs.logits
        cut = tuple(level[start:stop] for level in logits) if isinstance(logits, tuple) else logits[start:stop]
        return Outputs(cut, ())

    targets = data.batch.targets
    return replace(
        data,
        batch=replace(data.batch, targets=targets if isinstance(targets, list) else targets[start:stop]),
        student=cut(data.student),
        teacher=cut(data.teacher),
    )


def test_correlation_ignores_scale_and_shift_of_a_row() -> None:
    torch.manual_seed(0)
    u, v = torch.randn(4, 9), torch.randn(4, 9)
    assert torch.allclose(correlation(3 * u + 2, v), correlation(u, v), atol=1e-6)
    assert torch.allclose(correlation(u, -u), -torch.ones(4), atol=1e-6)
    assert torch.equal(correlation(torch.ones(4, 9), v), torch.zeros(4))
    expected = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(u, v, strict=True)])
    assert torch.allclose(correlation(u, v), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["classification", "segmentation", "dense", "two-stage"])
def test_is_zero_for_equal_logits(kind: str, sample: Make) -> None:
    data = sample(kind)
    assert loss(replace(data, teacher=data.student)).item() == pytest.approx(0, abs=1e-5)
    assert loss(data).item() > 0.1


def test_beta_and_gamma_weigh_the_two_parts(sample: Make) -> None:
    data = sample("classification")
    ys, yt = (outputs.logits.softmax(dim=1) for outputs in (data.student, data.teacher))
    expected = 2 * (3 * inter_class(ys, yt) + 5 * intra_class(ys, yt))
    assert loss(data, weight=2.0, beta=3.0, gamma=5.0).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["classification", "dense"])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunk_is_the_mean_over_groups_of_images(kind: str, chunk: int, sample: Make) -> None:
    data = sample(kind, images=4)
    parts = [loss(images(data, start, start + chunk)) for start in range(0, 4, chunk)]
    assert loss(data, chunk=chunk).item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)
    assert loss(data, chunk=chunk).item() != pytest.approx(loss(data).item(), rel=1e-4)


def test_chunk_of_segmentation_keeps_the_pixels_of_an_image_together(sample: Make) -> None:
    data = sample("segmentation")
    parts = [loss(images(data, start, start + 1)) for start in range(2)]
    assert loss(data, chunk=1, aux_weight=0.0).item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)


def test_chunk_of_rois_follows_the_proposals_of_each_image(sample: Make) -> None:
    data = sample("two-stage")
    ys, yt = (outputs.extra["roi_logits"].softmax(dim=1) for outputs in (data.student, data.teacher))
    parts = [inter_class(a, b) + intra_class(a, b) for a, b in ((ys[:3], yt[:3]), (ys[3:], yt[3:]))]
    assert loss(data, chunk=1).item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)
    assert loss(data, chunk=2).item() == pytest.approx(loss(data).item(), rel=1e-6)
    del data.student.extra["proposals"]
    with pytest.raises(MethodError, match="the student has 0 for 7 RoIs"):
        loss(data, chunk=1)


def test_levels_are_summed_and_not_joined(dense: Any) -> None:
    def rows(outputs: Outputs) -> Tensor:
        return torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in outputs.logits]).sigmoid()

    def level(index: int) -> Any:
        one, other = Outputs((dense.student.logits[index],), ()), Outputs((dense.teacher.logits[index],), ())
        return replace(dense, student=one, teacher=other)

    ys, yt = rows(dense.student), rows(dense.teacher)
    joined = inter_class(ys, yt) + intra_class(ys, yt)
    assert loss(dense).item() == pytest.approx((loss(level(0)) + loss(level(1))).item(), rel=1e-6)
    assert loss(dense).item() > 1.5 * joined.item()


def test_activation_can_be_chosen(dense: Any, sample: Make) -> None:
    assert loss(dense, activation="sigmoid").item() == loss(dense).item()
    assert loss(dense, activation="softmax").item() != pytest.approx(loss(dense).item(), rel=1e-4)
    data = sample("two-stage")
    assert loss(data, activation="softmax").item() == loss(data).item()
    assert loss(data, activation="sigmoid").item() != pytest.approx(loss(data).item(), rel=1e-4)


def test_auxiliary_logits_count_when_both_networks_show_them(sample: Make) -> None:
    data = sample("segmentation")
    main = loss(data, aux_weight=0.0).item()
    swapped = replace(
        data,
        student=Outputs(data.student.extra["aux_logits"], ()),
        teacher=Outputs(data.teacher.extra["aux_logits"], ()),
    )
    assert loss(data).item() == pytest.approx(main + 0.4 * loss(swapped).item(), rel=1e-5)
    del data.teacher.extra["aux_logits"]
    assert loss(data).item() == main


def test_ignored_pixels_do_not_count(sample: Make) -> None:
    data = sample("segmentation")
    # The logits lie at stride 8, so their first two columns are the labels' columns 0 and 8.
    data.batch.targets[:] = 0
    data.batch.targets[:, :, :9] = IGNORE_INDEX
    right = replace(
        data,
        student=Outputs(data.student.logits[..., 2:], ()),
        teacher=Outputs(data.teacher.logits[..., 2:], ()),
    )
    assert loss(data, ignore_index=IGNORE_INDEX, aux_weight=0.0).item() == pytest.approx(loss(right).item(), rel=1e-5)
    assert loss(data, aux_weight=0.0).item() != pytest.approx(loss(right).item(), rel=1e-4)


def test_labels_are_read_at_the_size_of_each_map(sample: Make) -> None:
    data = sample("segmentation")
    for outputs in (data.student, data.teacher):
        outputs.extra["aux_logits"] = outputs.logits.repeat_interleave(2, 2).repeat_interleave(2, 3)
    # The auxiliary logits are the main ones with every pixel four times, in labels as in logits.
    main = loss(data, ignore_index=IGNORE_INDEX, aux_weight=0.0).item()
    data.batch.targets = data.batch.targets[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert loss(data, ignore_index=IGNORE_INDEX).item() == pytest.approx(1.4 * main, rel=1e-5)


def test_an_image_of_ignored_pixels_only_costs_nothing(sample: Make) -> None:
    data = sample("segmentation")
    data.batch.targets[0], data.batch.targets[1] = 0, IGNORE_INDEX
    first = loss(images(data, 0, 1)).item()
    assert loss(data, ignore_index=IGNORE_INDEX, chunk=1, aux_weight=0.0).item() == pytest.approx(first, rel=1e-5)
    data.batch.targets[:] = IGNORE_INDEX
    nothing = loss(data, ignore_index=IGNORE_INDEX)
    nothing.backward()
    assert nothing.item() == 0
    assert not data.student.logits.grad.any()


def test_without_proposals_the_loss_is_zero(sample: Make) -> None:
    data = sample("two-stage")
    for outputs in (data.student, data.teacher):
        outputs.extra["roi_logits"] = outputs.extra["roi_logits"][:0]
    assert loss(data).item() == 0


def test_rois_of_teacher_and_student_must_match(sample: Make) -> None:
    data = sample("two-stage")
    data.teacher.extra["roi_logits"] = torch.zeros(6, 6)
    with pytest.raises(MethodError, match="7 student rows and 6 teacher rows of roi_logits"):
        loss(data)
    data.teacher.extra["roi_logits"] = torch.zeros(7, 9)
    with pytest.raises(MethodError, match=r"\(7, 6\) and the teacher's \(7, 9\)"):
        loss(data)
    del data.teacher.extra["roi_logits"]
    with pytest.raises(MethodError, match="both must be two-stage"):
        loss(data)


def test_numbers_of_levels_must_match(dense: Any) -> None:
    dense.teacher.logits = dense.teacher.logits[:1]
    with pytest.raises(MethodError, match="2 levels of class logits and the teacher 1"):
        loss(dense)


def test_one_map_and_several_levels_do_not_match(dense: Any, sample: Make) -> None:
    single = sample("segmentation")
    with pytest.raises(MethodError, match="choose the same family"):
        loss(replace(single, teacher=dense.teacher))
    with pytest.raises(MethodError, match="and the teacher 0"):
        loss(replace(dense, teacher=single.teacher))


@pytest.mark.parametrize("options", [{"tau": 0.0}, {"chunk": 0}, {"activation": "relu"}, {"ignore_index": 255}])
def test_senseless_options_are_refused(options: dict[str, Any], dense: Any) -> None:
    with pytest.raises(MethodError, match=next(iter(options))):
        loss(dense, **options)
