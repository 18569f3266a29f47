"""Weights saved from torchvision's own detectors: brought to our names, the same function, or refused with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection

from kdbench import networks
from kdbench.networks.base import Detector
from kdbench.networks.load import explain_misfit, load_network, try_networks

CLASSES = ("cat", "dog", "fox")
State = dict[str, Tensor]


def theirs(build: Callable[..., nn.Module], num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return build(weights=None, weights_backbone=None, num_classes=num_classes).eval()


@pytest.mark.parametrize(
    ("build", "num_classes", "name"),
    [
        (detection.fasterrcnn_resnet50_fpn, len(CLASSES) + 1, "faster_rcnn_r50_fpn"),
        (detection.fcos_resnet50_fpn, len(CLASSES), "fcos_r50_fpn"),
    ],
)
def test_a_model_of_torchvision_is_loaded_and_computes_the_same(
    build: Callable[..., nn.Module], num_classes: int, name: str, tmp_path: Path
) -> None:
    model, file = theirs(build, num_classes), tmp_path / "teacher.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, file)
    assert "the names of the network's library" in try_networks(file, [name], CLASSES).notices[name]
    network = load_network(file, name, CLASSES, torch.device("cpu")).eval()
    assert isinstance(network, Detector)
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 96)
        expected = list(model.backbone(x).values())  # type: ignore[operator]
        outputs = network(x)
        assert all(torch.equal(a, b) for a, b in zip(outputs.features, expected, strict=True))
        if name.startswith("faster"):
            objectness, deltas = model.rpn.head(expected)  # type: ignore[union-attr, operator]
            assert all(torch.equal(a, b) for a, b in zip(outputs.logits, objectness, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(outputs.boxes or (), deltas, strict=True))
    for (ours, a), (other, b) in zip(network.state_dict().items(), model.state_dict().items(), strict=True):
        assert ours.split(".")[-3:] == other.split(".")[-3:] and torch.equal(a, b)


def as_published(state: State) -> State:
    """Under the names of torchvision's published files, from before its blocks of convolution and norm."""
    renamed = {re.sub(r"((?:inner|layer)_blocks\.\d+|rpn\.head\.conv)(?:\.0)+\.", r"\1.", name): name for name in state}
    renamed = {
        re.sub(r"_head\.conv\.(\d+)\.0\.", lambda m: f"_head.conv.{2 * int(m[1])}.", new): old
        for new, old in renamed.items()
    }
    return {new: state[old] for new, old in renamed.items() if not new.endswith("num_batches_tracked")}


def test_the_names_of_published_files_are_converted(tmp_path: Path) -> None:
    file = tmp_path / "teacher.pth"
    state = theirs(detection.fasterrcnn_resnet50_fpn, len(CLASSES) + 1).state_dict()
    old = as_published(state)
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.0.weight"} <= old.keys()
    torch.save(old, file)
    network = load_network(file, "faster_rcnn_r50_fpn", CLASSES, torch.device("cpu"))
    pairs = zip(network.state_dict().items(), state.values(), strict=True)
    assert all(torch.equal(ours, value) for (name, ours), value in pairs if not name.endswith("num_batches_tracked"))
    head = networks.build("retinanet_r50_fpn", len(CLASSES))
    ours = head.state_dict()
    of_torchvision = {name.removeprefix("model.").replace("pyramid.", ""): value for name, value in ours.items()}
    old = as_published(of_torchvision)
    assert "head.classification_head.conv.6.weight" in old
    converted = head.convert_state_dict(old)
    assert converted.keys() == {name for name in ours if not name.endswith("num_batches_tracked")}
    assert all(value is ours[name] or torch.equal(value, ours[name]) for name, value in converted.items())


@pytest.mark.parametrize(
    ("build", "num_classes", "name", "reason"),
    [
        (
            detection.retinanet_resnet50_fpn,
            len(CLASSES),
            "retinanet_r50_fpn",
            r"p6\.weight is \(256, 256, 3, 3\) there and \(256, 2048, 3, 3\) here .* another width or version",
        ),
        (
            detection.fasterrcnn_resnet50_fpn_v2,
            len(CLASSES) + 1,
            "faster_rcnn_r50_fpn",
            r"unknown, such as backbone\.fpn\.inner_blocks\.0\.1\.bias; .* It has 404 tensors: backbone\.body\.conv1",
        ),
        (
            detection.fasterrcnn_resnet50_fpn,
            91,
            "faster_rcnn_r50_fpn",
            r"cls_score\.weight is \(91, 1024\) there .*classes\. It fits faster_rcnn_r50_fpn with 90 classes",
        ),
    ],
)
def test_another_version_or_number_of_classes_is_refused_with_what_was_found(
    build: Callable[..., nn.Module], num_classes: int, name: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "teacher.pth"
    torch.save(theirs(build, num_classes).state_dict(), file)
    refusal = try_networks(file, [name], CLASSES).refusals[name] + explain_misfit(file, name, CLASSES)
    assert re.search(reason, refusal), refusal


def test_the_number_of_classes_is_not_that_of_rows_of_the_head(tmp_path: Path) -> None:
    file = tmp_path / "teacher.pth"
    torch.save(networks.build("retinanet_mini_teacher", 5).state_dict(), file)
    assert explain_misfit(file, "retinanet_mini_teacher", CLASSES) == ". It fits retinanet_mini_teacher with 5 classes"
