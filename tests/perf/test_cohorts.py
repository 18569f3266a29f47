"""Eight students side by side, beside eight runs one after the other and beside eight plain loops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .conftest import Scope
from .reference import PlainLoop
from .rig import MINI, X4_BFLOAT16, X4_FLOAT32, Case, Entry, Rig
from .turns import in_turn, record

LOGITS: tuple[Entry, ...] = (
    ("kd", {}),
    ("kd", {"temperature": 2.0}),
    ("kd", {"temperature": 8.0}),
    ("dkd", {}),
    ("dkd", {"beta": 2.0}),
    ("dist", {}),
    ("dist", {"tau": 2.0}),
    ("dist", {"tau": 4.0}),
)
"""Methods that read logits alone."""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=pytest.mark.long if case.large else ())
        for case in (MINI, X4_FLOAT32, X4_BFLOAT16)
    ],
)
def test_cohort_of_eight(case: Case, benchmark: BenchmarkFixture, rig: Callable[[Case], Rig], scope: Scope) -> None:
    """One step of all eight. Throughput per student, and what one more costs beside a bare step (data and `none`)."""
    count = len(LOGITS)
    plain = PlainLoop.of(rig(case))

    def one_by_one() -> None:
        for loop in solo:
            loop.step()

    with ExitStack() as loops:
        cohort, none, *solo = (
            loops.enter_context(rig(case).loop(*entries))
            for entries in (LOGITS, [("none", {})], *([e] for e in LOGITS))
        )
        sides = {
            "cohort": cohort.step,
            "solo": one_by_one,
            "none": none.step,
            "plain": plain.step,
        }
        times = in_turn(benchmark, scope.rounds(case.rounds), sides)
    record(benchmark, "solo / cohort", [one["solo"] / one["cohort"] for one in times])
    record(benchmark, "plain / cohort, per student", [count * one["plain"] / one["cohort"] for one in times])
    extra = [(one["cohort"] - one["solo"] / count) / (count - 1) / one["none"] for one in times]
    record(benchmark, "extra student / none", extra)
    record(benchmark, "images/s, per student", [rig(case).task.batch_size / one["cohort"] for one in times])
