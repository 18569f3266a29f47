"""torchvision's detectors as `Network`s: the same losses and detections, and outputs in their documented shapes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kdbench import networks
from kdbench.errors import SpecError
from kdbench.methods.base import Batch, Outputs
from tests.helpers.tensors import buffers, equal

K = 5
HEIGHT, WIDTH = 96, 128
SIZES = [(HEIGHT, WIDTH), (96, 100), (70, WIDTH)]  # before padding

Targets = list[dict[str, Tensor]]


def images() -> list[Tensor]:
    """Images of several sizes; the first is as large as the padded batch."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(3, *size, generator=draw) for size in SIZES]


def padded(single: list[Tensor]) -> Tensor:
    batch = torch.zeros(len(single), 3, HEIGHT, WIDTH)
    for target, image in zip(batch, single, strict=True):
        target[:, : image.shape[1], : image.shape[2]] = image
    return batch


def targets(*counts: int) -> Targets:
    draw = torch.Generator().manual_seed(1)
    truth = []
    for count, size in zip(counts, SIZES, strict=True):
        corner = torch.rand(count, 2, generator=draw) * 40
        boxes = torch.cat([corner, corner + 8 + torch.rand(count, 2, generator=draw) * 20], 1)
        labels = torch.randint(0, K, (count,), generator=draw)
        truth.append({"boxes": boxes, "labels": labels, "size": torch.tensor(size)})
    return truth


def build(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return networks.build(name, K)


def confident(network: Any) -> Any:
    """Biases without the prior that keeps an untrained head silent, so that there is something to detect."""
    for name, parameter in network.named_parameters():
        if "cls_logits.bias" in name:
            nn.init.zeros_(parameter)
    return network


@pytest.mark.parametrize(
    ("name", "prior"),
    [
        ("retinanet_mini_student", 0.05),
        ("fcos_mini_teacher", 0.05),
        ("retinanet_r50_fpn", 0.01),
        ("fcos_r50_fpn", 0.01),
    ],
)
def test_scores_of_small_one_stage_heads_begin_higher_than_the_papers(name: str, prior: float) -> None:
    bias = build(name).model.head.classification_head.cls_logits.bias
    assert torch.allclose(bias.sigmoid(), torch.full_like(bias, prior), atol=1e-5)


def as_torchvision(network: Any) -> Any:
    """torchvision's detector with the same weights and a transform that only pads."""
    model = network.model
    model.transform = GeneralizedRCNNTransform(1, 1, [0.0] * 3, [1.0] * 3, _skip_resize=True)
    return model


def shifted(name: str, truth: Targets) -> Targets:
    """Labels as torchvision counts them: from 1 where there is a background class."""
    offset = int(name.startswith("faster"))
    return [{"boxes": image["boxes"], "labels": image["labels"] + offset} for image in truth]


def levels(network: Any) -> list[tuple[int, int]]:
    return [(-(-HEIGHT // stride), -(-WIDTH // stride)) for stride in network.info.strides]


HEADS = ("retinanet", "fcos", "faster_rcnn")
MINI = tuple(f"{head}_mini_{role}" for head in HEADS for role in ("teacher", "student"))
mini = pytest.mark.parametrize("name", MINI)
two_stage = pytest.mark.parametrize("name", [name for name in MINI if name.startswith("faster")])


@mini
def test_a_forward_returns_every_level_in_the_documented_shape(name: str) -> None:
    network = build(name)
    anchors = (
        1
        if name.startswith("fcos")
        else network.model.rpn.anchor_generator.num_anchors_per_location()[0]
        if name.startswith("faster")
        else network.model.anchor_generator.num_anchors_per_location()[0]
    )
    assert anchors == {"fcos": 1, "retinanet": 6, "faster_rcnn": 3}[networks.family(name)]
    columns = anchors * (1 if name.startswith("faster") else K)
    outputs = network(padded(images()))
    assert isinstance(outputs, Outputs) and outputs.losses == {}
    maps = levels(network)
    assert [tuple(x.shape) for x in outputs.features] == [
        (3, c, *m) for c, m in zip(network.info.channels, maps, strict=True)
    ]
    assert [tuple(x.shape) for x in outputs.logits] == [(3, columns, *m) for m in maps]
    assert [tuple(x.shape) for x in outputs.boxes] == [(3, anchors * 4, *m) for m in maps]
    if name.startswith("fcos"):
        assert [tuple(x.shape) for x in outputs.extra["centerness"]] == [(3, 1, *m) for m in maps]
        assert all(bool((level >= 0).all()) for level in outputs.boxes)
    else:
        assert outputs.extra == {}


@mini
@pytest.mark.parametrize("counts", [(3, 1, 4), (2, 0, 3), (0, 0, 0)], ids=["boxes", "one empty", "all empty"])
def test_losses_are_torchvisions(name: str, counts: tuple[int, ...]) -> None:
    network = build(name).train()
    truth = targets(*counts)
    torch.manual_seed(5)
    ours = network(padded(images()), truth).losses
    torch.manual_seed(5)
    theirs = as_torchvision(network)(images(), shifted(name, truth))
    assert ours.keys() == theirs.keys()
    for key, loss in ours.items():
        assert loss.ndim == 0 and loss.isfinite()
        assert loss.item() == pytest.approx(theirs[key].item(), rel=1e-5, abs=1e-7), key
    if sum(counts):
        assert all(loss > 0 for loss in ours.values())


@mini
@pytest.mark.parametrize("counts", [(3, 1, 4), (0, 0, 0)], ids=["boxes", "empty"])
def test_every_parameter_gets_a_finite_gradient_from_the_losses(name: str, counts: tuple[int, ...]) -> None:
    network = build(name).train()
    torch.stack(list(network(padded(images()), targets(*counts)).losses.values())).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    if sum(counts):
        moved = [key for key, parameter in network.named_parameters() if parameter.grad.abs().sum() > 0]
        assert len(moved) > 0.9 * len(list(network.parameters()))


@mini
def test_detections_are_torchvisions(name: str) -> None:
    network = confident(build(name)).eval()
    with torch.no_grad():
        ours = network.detect(padded(images()), SIZES)
        theirs = as_torchvision(network)(images())
    offset = int(name.startswith("faster"))
    assert sum(len(image["scores"]) for image in ours) > 0
    for found, expected, (height, width) in zip(ours, theirs, SIZES, strict=True):
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-5, atol=1e-4)
        assert torch.equal(found["labels"], expected["labels"] - offset)
        assert len(found["scores"]) <= 100
        assert found["labels"].min() >= 0 and found["labels"].max() < K
        assert found["boxes"][:, 0::2].max() <= width and found["boxes"][:, 1::2].max() <= height
        assert found["boxes"].min() >= 0


@mini
def test_a_forward_in_eval_mode_changes_no_buffer_and_one_in_train_mode_does(name: str) -> None:
    network = build(name).eval()
    before = buffers(network)
    with torch.no_grad():
        outputs = network(padded(images()), targets(2, 1, 1))
        network.detect(padded(images()), SIZES)
        network.outputs_for_student(outputs, outputs, Batch(padded(images()), targets(2, 1, 1), torch.arange(3)))
    assert equal(buffers(network), before)
    network.train()(padded(images()))
    assert not equal(buffers(network), before)


@mini
def test_outputs_in_eval_mode_do_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    network = build(name).eval()
    with torch.no_grad():
        whole, alone = network(padded(images())), network(padded(images())[1:2])
    for batched, single in zip(whole.logits, alone.logits, strict=True):
        torch.testing.assert_close(batched[1:2], single, rtol=1e-4, atol=1e-5)


@mini
def test_losses_from_its_own_features_are_the_losses_of_the_forward(name: str) -> None:
    network = build(name).eval()
    batch = Batch(padded(images()), targets(3, 1, 4), torch.arange(3))
    torch.manual_seed(5)
    outputs = network(batch.inputs, batch.targets)
    torch.manual_seed(5)
    again = network.losses_from(outputs.features, batch)
    assert {key: loss.item() for key, loss in again.items()} == {key: v.item() for key, v in outputs.losses.items()}
    torch.manual_seed(5)
    flipped = network.losses_from(tuple(level.flip(1) for level in outputs.features), batch)
    assert all(flipped[key].item() != outputs.losses[key].item() for key in flipped)


@mini
def test_losses_from_let_gradients_reach_the_features(name: str) -> None:
    network = build(name).eval().requires_grad_(False)
    batch = Batch(padded(images()), targets(3, 1, 4), torch.arange(3))
    features = tuple(level.detach().requires_grad_() for level in network(batch.inputs).features)
    torch.stack(list(network.losses_from(features, batch).values())).sum().backward()
    assert all(level.grad is not None and level.grad.isfinite().all() for level in features)
    assert features[0].grad is not None and features[0].grad.abs().sum() > 0


@mini
def test_the_same_seed_builds_the_same_weights_and_another_seed_different_ones(name: str) -> None:
    first, again, different = (build(name, seed).state_dict() for seed in (0, 0, 1))
    assert equal(first, again) and not equal(first, different)


@two_stage
def test_the_roi_head_returns_its_sampled_proposals_in_the_documented_shape(name: str) -> None:
    network = build(name).train()
    outputs = network(padded(images()), targets(3, 0, 4))
    proposals, rows = outputs.extra["proposals"], sum(len(p) for p in outputs.extra["proposals"])
    assert len(proposals) == 3 and all(p.shape[1] == 4 and len(p) <= 48 for p in proposals)
    assert outputs.extra["roi_logits"].shape == (rows, K + 1)
    assert outputs.extra["roi_boxes"].shape == (rows, (K + 1) * 4)


def test_a_teacher_reads_exactly_the_students_proposals() -> None:
    student = build("faster_rcnn_mini_student").train()
    teacher = build("faster_rcnn_mini_teacher", seed=1).eval()
    batch = Batch(padded(images()), targets(3, 0, 4), torch.arange(3))
    outputs = student(batch.inputs, batch.targets)
    before = buffers(teacher)
    with torch.no_grad():
        outputs_of_teacher = teacher(batch.inputs)
        matched = teacher.outputs_for_student(outputs_of_teacher, outputs, batch)
        heads = teacher.model.roi_heads
        maps = teacher.model.backbone(batch.inputs)
        pooled = heads.box_roi_pool(maps, list(outputs.extra["proposals"]), SIZES)
        logits, boxes = heads.box_predictor(heads.box_head(pooled))
    assert equal(buffers(teacher), before)
    assert all(map(torch.equal, matched.extra["proposals"], outputs.extra["proposals"]))
    assert matched.extra["roi_logits"].shape == outputs.extra["roi_logits"].shape
    torch.testing.assert_close(matched.extra["roi_logits"], logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(matched.extra["roi_boxes"], boxes, rtol=1e-5, atol=1e-6)
    assert (
        matched.features is outputs_of_teacher.features
        and matched.logits is outputs_of_teacher.logits
        and outputs_of_teacher.extra == {}
    )


def test_rows_of_a_teachers_outputs_stay_with_their_image() -> None:
    """A student as its teacher returns its outputs again; with exchanged images it does not."""
    network = build("faster_rcnn_mini_student").eval()
    batch = Batch(padded(images()), targets(3, 1, 4), torch.arange(3))
    with torch.no_grad():
        outputs = network(batch.inputs, batch.targets)
        matched = network.outputs_for_student(network(batch.inputs), outputs, batch)
        exchanged = network.outputs_for_student(network(batch.inputs.flip(0)), outputs, batch)
    torch.testing.assert_close(matched.extra["roi_logits"], outputs.extra["roi_logits"])
    assert not torch.allclose(exchanged.extra["roi_logits"], outputs.extra["roi_logits"], atol=1e-4)


def test_bfloat16_losses_are_float32_and_near_those_of_float32() -> None:
    for name in MINI[1::2]:
        network = build(name).eval()
        truth = targets(3, 1, 4)
        torch.manual_seed(5)
        exact = network(padded(images()), truth).losses
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(padded(images()), truth).losses
        for key, loss in rough.items():
            assert loss.dtype == torch.float32
            assert loss.item() == pytest.approx(exact[key].item(), rel=0.1, abs=0.02), key


def test_an_unknown_network_suggests_the_nearest() -> None:
    with pytest.raises(SpecError, match="unknown network: 'fcos_mini_studnt'. Did you mean 'fcos_mini_student'"):
        networks.build("fcos_mini_studnt", 3)


def test_the_family_of_a_detector_is_its_head_at_every_size() -> None:
    for head in HEADS:
        for size in ("r18_fpn", "mobilenet_v3_fpn", "r50_fpn", "r101_fpn", "x101_fpn", "mini_teacher", "mini_student"):
            assert networks.family(f"{head}_{size}") == head and networks.task(f"{head}_{size}") == "detection"


def test_a_copy_of_a_network_has_the_same_outputs() -> None:
    network = build("faster_rcnn_mini_student").eval()
    with torch.no_grad():
        expected, copied = network(padded(images())), copy.deepcopy(network)(padded(images()))
    assert all(torch.equal(a, b) for a, b in zip(expected.logits, copied.logits, strict=True))
