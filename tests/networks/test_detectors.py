"""torchvision's detectors as `Network`s: the same losses and detections, and outputs in their documented shapes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50
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


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@mini
def test_small_teachers_hold_about_3_million_parameters_and_students_06(name: str) -> None:
    expected = 3.0e6 if name.endswith("teacher") else 0.6e6
    assert parameters(networks.build(name, 10)) == pytest.approx(expected, rel=0.25)


CONSTRUCTORS = {
    "retinanet_r50_fpn": ("retinanet_resnet50_fpn", 0),
    "fcos_r50_fpn": ("fcos_resnet50_fpn", 0),
    "faster_rcnn_r50_fpn": ("fasterrcnn_resnet50_fpn", 1),  # and the background
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_paper_size_networks_hold_what_torchvisions_hold(name: str) -> None:
    constructor, background = CONSTRUCTORS[name]
    with torch.device("meta"):
        ours = networks.build(name, 91 - background)
        theirs = getattr(torchvision.models.detection, constructor)(weights=None, weights_backbone=None, num_classes=91)
    shapes = {
        key.removeprefix("model.").replace("backbone.pyramid.", "backbone."): value.shape
        for key, value in ours.state_dict().items()
    }
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    more = 0
    if name.startswith("retinanet"):  # the papers' P6 is from the backbone's last map, torchvision's from P5
        more = 256 * (2048 - 256) * 9
        expected["backbone.fpn.extra_blocks.p6.weight"] = torch.Size((256, 2048, 3, 3))
    assert shapes == expected
    assert parameters(ours) == parameters(theirs) + more
    published = {"retinanet_r50_fpn": 34_014_999, "fcos_r50_fpn": 32_269_600, "faster_rcnn_r50_fpn": 41_755_286}
    # torchvision's published counts are with a FrozenBatchNorm, whose scales and shifts are no parameters.
    norms = sum(m.weight.numel() * 2 for m in ours.modules() if isinstance(m, nn.BatchNorm2d))
    assert parameters(ours) - norms == published[name] + more


@pytest.mark.parametrize("family", HEADS)
@pytest.mark.parametrize(("depth", "body"), [("r101", "resnet101"), ("x101", "resnext101_64x4d")])
def test_deeper_networks_differ_from_r50_by_their_backbone_alone(family: str, depth: str, body: str) -> None:
    with torch.device("meta"):
        shallow, deep = (networks.build(f"{family}_{d}_fpn", 80) for d in ("r50", depth))
        more = parameters(getattr(torchvision.models, body)()) - parameters(resnet50())
    assert parameters(deep) - parameters(shallow) == more
    assert deep.info == shallow.info
    assert shallow.info.strides == ((4, 8, 16, 32, 64) if family == "faster_rcnn" else (8, 16, 32, 64, 128))


# Parameters with 80 classes, and multiply-adds in units of 10^9 for an image of 800x1344: backbone, pyramid and head,
# of two stages the first one's.
FULL_SIZES = {
    "retinanet_r18_fpn": (21_410_100, 197.91),
    "retinanet_mobilenet_v3_fpn": (14_284_836, 163.44),
    "retinanet_r50_fpn": (37_968_692, 250.49),
    "fcos_r18_fpn": (19_277_717, 163.12),
    "fcos_mobilenet_v3_fpn": (11_120_261, 128.37),
    "fcos_r50_fpn": (32_297_365, 214.73),
    "faster_rcnn_r18_fpn": (28_688_356, 146.71),
    "faster_rcnn_mobilenet_v3_fpn": (20_520_660, 111.27),
    "faster_rcnn_r50_fpn": (41_757_156, 201.63),
}
SMALLER = {  # channels of the maps that the pyramid reads, from stride 4 on, and torchvision's classifier
    "r18": ((64, 128, 256, 512), "resnet18"),
    "mobilenet_v3": ((24, 40, 80, 960), "mobilenet_v3_large"),
}


@pytest.mark.parametrize("name", FULL_SIZES)
def test_full_size_networks_have_known_parameters_and_multiply_adds(name: str) -> None:
    with torch.device("meta"):
        network = networks.build(name, 80).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 800, 1344))
    count, multiply_adds = FULL_SIZES[name]
    assert parameters(network) == count
    assert counter.get_total_flops() / 2e9 == pytest.approx(multiply_adds, abs=0.01)


@pytest.mark.parametrize("family", HEADS)
@pytest.mark.parametrize("backbone", SMALLER)
def test_smaller_students_differ_from_r50_by_what_depends_on_the_backbone(family: str, backbone: str) -> None:
    """The backbone, the 1x1 convolutions of the pyramid, and RetinaNet's P6, which reads the backbone's last map."""
    channels, body = SMALLER[backbone]
    with torch.device("meta"):
        large, small = (networks.build(f"{family}_{name}_fpn", 80) for name in ("r50", backbone))
        classifiers = resnet50(), getattr(torchvision.models, body)()
    heads = [model.fc if hasattr(model, "fc") else model.classifier for model in classifiers]
    bodies = [parameters(model) - parameters(head) for model, head in zip(classifiers, heads, strict=True)]
    read = slice(0, 4) if family == "faster_rcnn" else slice(1, 4)
    maps = [sum((256, 512, 1024, 2048)[read]), sum(channels[read])]
    p6 = [9 * 256 * last if family == "retinanet" else 0 for last in (2048, channels[-1])]
    expected = [body + 256 * width + first for body, width, first in zip(bodies, maps, p6, strict=True)]
    assert parameters(large) - parameters(small) == expected[0] - expected[1]
    assert small.info == large.info, "so every method can compare them level by level"


@pytest.mark.parametrize("name", [f"{head}_{backbone}_fpn" for head in HEADS for backbone in SMALLER])
def test_smaller_students_learn_from_a_paper_size_teacher(name: str) -> None:
    """Every detection method has losses on the outputs of both, and every parameter that trains gets a gradient."""
    from kdbench import methods
    from kdbench.methods.base import Setting

    torch.manual_seed(0)
    student, teacher = build(name).train(), build(f"{networks.family(name)}_r50_fpn").eval()
    setting = Setting("detection", K, 3, student.info, teacher.info, steps_per_epoch=1, epochs=1)
    batch = Batch(padded(images()), targets(3, 1, 4), torch.arange(3))
    outputs = student(batch.inputs, batch.targets)
    with torch.no_grad():
        taught = teacher.outputs_for_student(teacher(batch.inputs), outputs, batch)
    terms = dict(outputs.losses)
    for each in methods.names():
        if each != "none" and all("detection" in methods.method_class(part).tasks for part in each.split("+")):
            made = methods.build(each, setting)
            terms |= {f"{each}/{term}": value for term, value in made(batch, outputs, taught).items()}
    assert len(terms) > 8 and all(value.isfinite() for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


FULL_NAMES = [f"{head}_{backbone}_fpn" for head in HEADS for backbone in ("r50", *SMALLER)]


@pytest.mark.parametrize("name", FULL_NAMES)
def test_full_size_networks_return_the_levels_they_declare(name: str) -> None:
    torch.manual_seed(0)
    network = networks.build(name, 3).eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 3, 64, 96))
    assert [tuple(level.shape) for level in outputs.features] == [
        (1, c, -(-64 // s), -(-96 // s)) for c, s in zip(network.info.channels, network.info.strides, strict=True)
    ]


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
