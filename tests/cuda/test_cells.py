"""Training steps of the tables' cells at full scale, on an emulated CUDA device."""

from __future__ import annotations

import pytest

from tests.cuda.budgets import over_budget, problems
from tests.cuda.cells import Cell, of_methods, of_networks, repeats
from tests.cuda.steps import run_steps

pytestmark = pytest.mark.integration

TASKS = ("classification", "detection", "segmentation")


METHODS = [cell for task in TASKS for cell in of_methods(task)]


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, marks=[pytest.mark.slow] if repeated else [])
        for cell, repeated in zip(METHODS, repeats(METHODS), strict=True)
    ],
    ids=str,
)
def test_a_method_stays_on_the_device_and_within_its_kernels(cell: Cell) -> None:
    steps = run_steps(cell.run)
    assert problems(cell, steps) == []
    assert over_budget(cell, steps.last.kernels) == ""


@pytest.mark.parametrize("cell", [cell for task in TASKS for cell in of_networks(task)], ids=str)
def test_every_other_network_stays_on_the_device(cell: Cell) -> None:
    assert problems(cell, run_steps(cell.run)) == []
