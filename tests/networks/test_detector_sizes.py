"""Sizes of the detectors: parameters, multiply-adds, levels, and students with smaller backbones."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from kdbench import networks
from kdbench.methods.base import Batch
from tests.networks.test_detectors import HEADS, K, build, images, mini, padded, targets


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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"{head}_{backbone}_fpn", marks=[pytest.mark.slow] if i else [pytest.mark.integration])
        for head in HEADS
        for i, backbone in enumerate(SMALLER)
    ],
)
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
