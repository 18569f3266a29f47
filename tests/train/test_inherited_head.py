"""A detector that starts with its teacher's neck and head (`Method.inherits_head`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import networks
from kdbench.datasets.coco import CocoFolder
from kdbench.methods.base import MethodError
from kdbench.networks.base import Detector, Network
from kdbench.spec.run import Run
from kdbench.tasks.detection import DetectionTask
from kdbench.train.preparation import inherit_head, prepare
from kdbench.train.student import Student

CPU = torch.device("cpu")


def teacher_of(run: Run) -> Network:
    torch.manual_seed(3)
    assert run.teacher is not None
    return networks.build(run.teacher.student, 10).eval().requires_grad_(False)


def student_of(run: Run, teacher: Network, digits: CocoFolder, folder: Path) -> Student:
    return Student(run, DetectionTask(digits, run.recipe, 0), teacher.info, folder, CPU)


def copy(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before: dict[str, Tensor], network: torch.nn.Module) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("name", ["retinanet_r18_fpn", "faster_rcnn_mobilenet_v3_fpn", "fcos_mini_student"])
def test_what_is_no_backbone_is_neck_and_head(name: str) -> None:
    with torch.device("meta"):
        network = networks.build(name, 10)
    assert isinstance(network, Detector)
    backbone = [key for key in network.state_dict() if key.startswith(network.backbone_prefixes)]
    rest = network.state_dict().keys() - {*backbone}
    assert len(backbone) > 20
    assert all(".fpn." in key or re.match(r"model\.(head|rpn|roi_heads)\.", key) for key in rest)
    assert any(".fpn." in key for key in rest) and any("head" in key for key in rest)


@pytest.mark.parametrize("family", ["retinanet", "fcos", "faster_rcnn"])
def test_neck_and_head_are_the_teachers_and_the_backbone_is_not(
    family: str, make_run: Any, digits: CocoFolder, tmp_path: Path
) -> None:
    run = make_run("fgd", family, make_run("none").recipe.model_copy(update={"ema": 0.9}))
    run = run.model_copy(update={"student": run.teacher.student})  # of one architecture, so that every tensor fits
    teacher = teacher_of(run)
    student = student_of(run, teacher, digits, tmp_path)
    before = copy(student.network)
    prepare(student, teacher, {})
    taken = changed(before, student.network)
    assert any(".fpn." in name for name in taken) and any("head" in name for name in taken)
    assert not any(".stages." in name or ".stem." in name for name in taken)
    assert all(
        torch.equal(value, teacher.state_dict()[n]) for n, value in student.network.state_dict().items() if n in taken
    )
    assert student.averaged is not None and changed(before, student.averaged.module) == taken


def test_tensors_of_other_shapes_stay(make_run: Any, digits: CocoFolder, tmp_path: Path) -> None:
    run = make_run("fgd", "retinanet")
    teacher = teacher_of(run)
    student = student_of(run, teacher, digits, tmp_path)
    with torch.no_grad():
        teacher.get_parameter("model.head.classification_head.cls_logits.bias").fill_(-1)
    before = copy(student.network)
    prepare(student, teacher, {})
    assert changed(before, student.network) == {"model.head.classification_head.cls_logits.bias"}


@pytest.mark.parametrize(("method", "options"), [("fgd", {"inherit": False}), ("mimic", {})])
def test_no_other_method_changes_the_student(
    method: str, options: dict[str, Any], make_run: Any, digits: CocoFolder, tmp_path: Path
) -> None:
    run = make_run(method, "retinanet", **options)
    teacher = teacher_of(run)
    student = student_of(run, teacher, digits, tmp_path)
    before = copy(student.network)
    prepare(student, teacher, {})
    assert not changed(before, student.network)


def test_a_resumed_student_keeps_what_it_has_learned(make_run: Any, digits: CocoFolder, tmp_path: Path) -> None:
    run = make_run("fgd", "retinanet")
    teacher = teacher_of(run)
    student = student_of(run, teacher, digits, tmp_path)
    student.prepared = True
    before = copy(student.network)
    prepare(student, teacher, {})
    assert not changed(before, student.network)


def test_a_teacher_of_another_family_is_refused(make_run: Any, digits: CocoFolder, tmp_path: Path) -> None:
    run = make_run("fgd", "retinanet")
    student = student_of(run, teacher_of(run), digits, tmp_path)
    with pytest.raises(MethodError, match="no tensors outside of its backbone that fit"):
        inherit_head(student, networks.build("resnet8", 10))
