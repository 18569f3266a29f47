"""Batches alone: what the data path can feed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .conftest import Scope
from .reference import batches
from .rig import CITYSCAPES, COCO, MINI, X4_FLOAT32, Case, Rig
from .turns import Work, in_turn, record


@pytest.mark.parametrize("case", [MINI, X4_FLOAT32, COCO, CITYSCAPES], ids=lambda case: case.name)
def test_data_path(case: Case, benchmark: BenchmarkFixture, rig: Callable[[Case], Rig], scope: Scope) -> None:
    """Augmented, normalised batches in this process; arrays beside a DataLoader over the same images."""
    stand = rig(case)
    ours = stand.task.endless(scope.device, "train")
    sides: dict[str, Work] = {"own": lambda: next(ours)}
    if case.cifar:
        plain = batches(stand.images, scope.device)
        sides["plain"] = lambda: next(plain)
    times = in_turn(benchmark, scope.rounds(24), sides)
    record(benchmark, "images/s", [stand.task.batch_size / one["own"] for one in times])
    if case.cifar:
        record(benchmark, "plain / own", [one["plain"] / one["own"] for one in times])
