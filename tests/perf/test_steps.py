"""A training step of every method, beside a step of the student alone; and of plain KD beside a plain loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kdbench import methods
from kdbench.methods.base import MethodError

from .conftest import Scope
from .reference import PlainLoop
from .rig import CITYSCAPES, COCO, MINI, X4_BFLOAT16, X4_FLOAT32, Case, Rig
from .turns import in_turn, record

CASES = (MINI, COCO, CITYSCAPES, X4_BFLOAT16)


def methods_for(case: Case) -> list[str]:
    """Every method that has a form for the case's task; on the large pair only those of one name.

    What a wrapper or a sum adds shows on the small pair.
    """
    fitting = [n for n in methods.names() if all(case.task in methods.method_class(p).tasks for p in n.split("+"))]
    return [name for name in fitting if "+" not in name] if case.large else fitting


STEPS = [
    pytest.param(case, name, id=f"{case.name}-{name}", marks=pytest.mark.long if case.large or "+" in name else ())
    for case in CASES
    for name in methods_for(case)
]


@pytest.mark.parametrize(("case", "method"), STEPS)
def test_step(case: Case, method: str, benchmark: BenchmarkFixture, rig: Callable[[Case], Rig], scope: Scope) -> None:
    """What a step costs over that of `none`, which says of itself how far two equal steps lie apart."""
    try:
        own = rig(case).loop((method, {}))
    except MethodError as error:
        pytest.skip(str(error))
    with own, rig(case).loop(("none", {})) as none:
        times = in_turn(benchmark, scope.rounds(case.rounds), {"own": own.step, "none": none.step})
    record(benchmark, "x none", [one["own"] / one["none"] for one in times])


@pytest.mark.long
@pytest.mark.parametrize("case", [X4_FLOAT32, X4_BFLOAT16], ids=lambda case: case.name)
def test_step_of_kd_beside_a_plain_loop(
    case: Case, benchmark: BenchmarkFixture, rig: Callable[[Case], Rig], scope: Scope
) -> None:
    """How much faster ours is; the plain loop is float32 beside both."""
    plain = PlainLoop.of(rig(case))
    with rig(case).loop(("kd", {})) as own:
        times = in_turn(benchmark, scope.rounds(6), {"own": own.step, "plain": plain.step})
    record(benchmark, "plain / own", [one["plain"] / one["own"] for one in times])
    record(benchmark, "images/s", [rig(case).task.batch_size / one["own"] for one in times])
    record(benchmark, "images/s, plain", [rig(case).task.batch_size / one["plain"] for one in times])
