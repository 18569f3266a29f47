"""A frozen teacher whose BatchNorm normalizes by the batch, for the methods that ask for it alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from kdbench import networks
from kdbench.methods.base import Batch
from kdbench.networks.base import Network
from kdbench.train.job import execute
from kdbench.train.step import teacher_forward
from tests.helpers.pictures import Pictures, done, numbers, short
from tests.helpers.tensors import equal

BATCH_STATISTICS = {"teacher_batch_statistics": True}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture
def teacher() -> Network:
    torch.manual_seed(0)
    return networks.build("resnet14", 10).eval().requires_grad_(False)


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(1)
    return Batch(torch.randn(6, 3, 16, 16), torch.zeros(6, dtype=torch.int64), torch.arange(6))


@pytest.mark.parametrize("compiled", [False, True])
def test_its_outputs_are_those_of_train_mode_and_nothing_of_it_changes(
    compiled: bool, teacher: Network, batch: Batch
) -> None:
    recipe, before = short(compile=compiled), copy.deepcopy(teacher)
    outputs = teacher_forward(teacher, batch, recipe, batch_statistics=True)
    with torch.no_grad():
        expected = copy.deepcopy(teacher).train()(batch.inputs)
    assert torch.equal(outputs.logits, expected.logits)
    assert not torch.allclose(outputs.logits, teacher_forward(teacher, batch, recipe).logits, atol=1e-2)
    assert equal(teacher.state_dict(), before.state_dict())
    assert not any(module.training for module in teacher.modules())


def test_it_is_in_eval_mode_again_after_an_error(teacher: Network, batch: Batch) -> None:
    batch.inputs = batch.inputs[:, :2]
    with pytest.raises(RuntimeError, match="expected input"):
        teacher_forward(teacher, batch, short(), batch_statistics=True)
    norms = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(norm.track_running_stats and not norm.training for norm in norms)


def test_in_a_cohort_each_student_reads_the_outputs_of_its_method(pictures: Pictures, tmp_path: Path) -> None:
    running, by_batch = pictures.run("wsld"), pictures.run("wsld", options=BATCH_STATISTICS)
    together = done(execute(pictures.job(tmp_path / "all", running, by_batch, pictures.run("kd")), lambda _: None))
    alone = [
        done(execute(pictures.job(tmp_path / str(number), run), lambda _: None))[0]
        for number, run in enumerate((running, by_batch))
    ]
    by_run = {row.run.id: row for row in together}
    assert [numbers(by_run[row.run.id]) for row in alone] == [numbers(row) for row in alone]
    assert alone[0].student and alone[1].student and alone[0].student.sha256 != alone[1].student.sha256
    assert alone[1].run.options["teacher_batch_statistics"] is True
