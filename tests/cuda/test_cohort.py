"""Steps of a cohort on an emulated CUDA device: two students, micro-batches, clipped gradients, a running mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdbench.contract.emulated_cuda import CUDA, EmulatedCuda
from kdbench.contract.findings import Record
from kdbench.contract.on_cuda import listed
from kdbench.spec.run import Run
from kdbench.train.step import train_step
from kdbench.train.student import Student
from kdbench.train.timing import StepTimer
from tests.cuda.cells import of_methods
from tests.cuda.steps import make_task, on_device

pytestmark = pytest.mark.integration

CHANGES = {"batch_size": 4, "accumulate": 2, "clip_norm": 5.0, "ema": 0.99, "label_smoothing": 0.1}


def small(method: str, **changes: object) -> Run:
    """A run of a method on the smallest networks."""
    run = next(cell.run for cell in of_methods("classification") if cell.method == method)
    assert run.teacher is not None
    teacher = run.teacher.model_copy(update={"student": "resnet8"})
    recipe = run.recipe.model_copy(update=CHANGES | changes)
    return run.model_copy(update={"student": "resnet8", "teacher": teacher, "recipe": recipe})


def second_step(*runs: Run, exact: bool = False) -> tuple[Record, list[str]]:
    """What happens in a cohort's second step, and why its students ended."""
    with EmulatedCuda() as cuda:
        task = make_task(runs[0])
        teacher = on_device(cuda, "resnet8", len(task.classes))
        students = [Student(run, task, teacher.info, Path(), CUDA) for run in runs]
        batch = next(task.batches(0, CUDA))
        for _ in range(2):
            with cuda.recorded() as record:
                train_step(students, batch, teacher, StepTimer(CUDA, exact=exact))
        return record, [student.reason for student in students]


@pytest.mark.parametrize("precision", ["ieee", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop_tf"])
def test_a_cohort_stays_on_the_device(optimizer: str, precision: str) -> None:
    runs = [small(method, optimizer=optimizer, precision=precision) for method in ("fitnet", "crd")]
    record, reasons = second_step(*runs)
    assert reasons == ["", ""]
    assert listed(record.findings) == []
    assert record.kernels > 300


def test_a_step_that_is_timed_waits_for_each_part() -> None:
    record, reasons = second_step(small("fitnet"), exact=True)
    assert reasons == [""]
    assert {(finding.op, finding.file) for finding in record.findings} == {("synchronize", "train/timing.py")}


def test_outputs_under_autocast_are_in_half_precision() -> None:
    with EmulatedCuda(), torch.autocast("cuda", torch.bfloat16):
        layer = torch.nn.Linear(3, 2).to(CUDA)
        assert layer(torch.ones(1, 3, device=CUDA)).dtype == torch.bfloat16
