"""The initial phase of a method: what of the student learns in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdbench import networks
from kdbench.train.preparation import prepare
from kdbench.train.student import Student
from tests.helpers.pictures import Pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("method", ["ab", "fsp"])
@pytest.mark.parametrize(
    ("teacher_network", "network", "fixed"), [("wrn_16_1", "wrn_16_1", {"bn1"}), ("resnet14", "resnet8", set())]
)
def test_ab_and_fsp_leave_the_norm_after_the_last_stage_as_it_is(
    method: str, teacher_network: str, network: str, fixed: set[str], pictures: Pictures, tmp_path: Path
) -> None:
    teacher = networks.build(teacher_network, 10).eval()
    run = pictures.run(method, student=network, options={"initial_epochs": 1})
    student = Student(run, pictures.task(run), teacher.info, tmp_path, CPU)
    before = {name: value.clone() for name, value in student.network.state_dict().items()}
    prepare(student, teacher, {})
    after = student.network.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in before.keys() - moved} - {"fc"} == fixed
    assert fixed.isdisjoint(name.split(".")[0] for name in moved)
    assert all(parameter.requires_grad for parameter in student.network.parameters())
    assert {id(p) for p in student.network.parameters()} <= {
        id(p) for group in student.optimizer.param_groups for p in group["params"]
    }
