"""SimKD, and a student's head in evaluation and in files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench import methods, networks
from kdbench.deploy.formats import load_student
from kdbench.deploy.plain import plain
from kdbench.errors import CheckpointError
from kdbench.methods.base import MethodError, StudentHead
from kdbench.networks.load import load_network, try_networks
from kdbench.networks.with_head import NetworkWithHead, content_of
from kdbench.records import checkpoint

Make = Callable[..., Any]
CLASSES = ("a", "b", "c")


def head_for(student: str = "resnet8", teacher: str = "resnet14") -> tuple[networks.Network, StudentHead]:
    torch.manual_seed(0)
    pair = [networks.build(name, 3) for name in (student, teacher)]
    data = methods.base.Setting("classification", 3, 8, pair[0].info, pair[1].info)
    method = methods.build("simkd", data)
    head = method.student_head()
    assert head is not None
    for norm in (m for m in (*pair[0].modules(), *head.modules()) if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
    return pair[0].eval(), head.eval()


def test_the_student_s_own_classifier_is_not_trained_by_the_loss(sample: Make) -> None:
    data = sample("classification")
    method = methods.build("simkd", data.setting)
    assert method.task_weight == 0
    method(data.batch, data.student, data.teacher)["simkd"].backward()
    assert data.student.logits.grad is None and data.student.features[-1].grad is not None
    assert torch.equal(method.head.classifier.weight, data.setting.teacher.classifier.weight)


def test_a_larger_map_of_the_student_is_pooled_to_the_teacher_s_size_at_inference_too() -> None:
    network, head = head_for("vgg8", "cifar_mobilenet_v2")  # maps of 4x4 and 2x2
    with torch.no_grad():
        found = NetworkWithHead(network, head)(torch.randn(2, 3, 32, 32))
    assert found.extra["last_map"].shape == (2, 1280, 2, 2) and found.logits.shape == (2, 3)


def test_a_saved_student_with_its_head_is_the_student_that_was_evaluated(tmp_path: Path) -> None:
    network, head = head_for()
    deployed = NetworkWithHead(network, head)
    content = {"network": "resnet8", "classes": list(CLASSES)} | content_of(deployed)
    checkpoint.write(tmp_path / "student.pt", content)
    images = torch.randn(2, 3, 32, 32)
    loaded = load_network(tmp_path / "student.pt", "resnet8", CLASSES, torch.device("cpu")).eval()
    with torch.no_grad():
        expected = head(network(images)).logits
        assert not torch.allclose(expected, network(images).logits)
        torch.testing.assert_close(loaded(images).logits, expected)
        torch.testing.assert_close(loaded.infer(images), expected)
        torch.testing.assert_close(load_student(tmp_path / "student.pt")(images), expected)
    assert loaded.info.classifier is loaded.head.classifier
    assert list(try_networks(tmp_path / "student.pt", ["resnet8"], CLASSES).notices) == ["resnet8"]
    own = sum(p.numel() for p in network.info.classifier.parameters())
    every = [sum(p.numel() for p in module.parameters()) for module in (network, head)]
    assert sum(p.numel() for p in loaded.used_parameters()) == sum(every) - own


def test_a_head_of_an_unknown_method_or_without_a_tensor_is_refused(tmp_path: Path) -> None:
    network, head = head_for()
    content = {"network": "resnet8", "classes": list(CLASSES)} | content_of(NetworkWithHead(network, head))
    for change, message in (
        ({"method": "simkdd"}, "a head that cannot be built: unknown method: 'simkdd'"),
        ({"method": "kd"}, "kd has no head"),
        ({"arguments": {"student": 3}}, "a head that cannot be built: .*missing"),
        ({"state": {}}, "names are missing"),
    ):
        checkpoint.write(tmp_path / "student.pt", content | {"head": content["head"] | change})
        with pytest.raises(CheckpointError, match=message):
            load_network(tmp_path / "student.pt", "resnet8", CLASSES, torch.device("cpu"))


def test_senseless_settings_are_refused(sample: Make) -> None:
    setting = sample("classification").setting
    for factor in (0, 25):
        with pytest.raises(MethodError, match=f"factor is {factor}; it must be from 1 to the teacher's 24"):
            methods.build("simkd", setting, factor=factor)
    with pytest.raises(MethodError, match="needs maps of both networks"):
        methods.build("simkd", replace(setting, student=replace(setting.student, channels=(), strides=())))


def test_the_head_is_in_an_exported_graph() -> None:
    network, head = head_for()
    exported = plain(NetworkWithHead(network, head), "classification", (32, 32))
    with torch.no_grad():
        graph = torch.export.export(exported.module, exported.example, dynamic_shapes=exported.dynamic).module()
        images = torch.randn(3, 3, 32, 32)
        torch.testing.assert_close(graph(images), head(network(images)).logits)
