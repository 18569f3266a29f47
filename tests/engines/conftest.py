"""A plan of three runs, their rows, and an engine with its driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.engines.driver import Driver
from kdbench.grid.plan import Plan
from kdbench.records.row import Row
from tests.helpers.engines import local
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table


@pytest.fixture
def rows() -> list[Row]:
    """A teacher's, a plain student's and a distilled student's row, as their runs would leave them."""
    table = fixed_table("dist/coco")
    pair = table.pairs[0]
    none, dist = (make_row(table, pair, entry, "mini") for entry in table.methods[:2])
    assert dist.run.teacher is not None
    teacher = none.model_copy(update={"run": dist.run.teacher, "id": dist.run.teacher.id})
    return [teacher, none, dist]


@pytest.fixture
def plan(rows: list[Row]) -> Plan:
    teacher, none, dist = (row.run for row in rows)
    return Plan(((((teacher,)),), ((none, dist),)), ())


@pytest.fixture
def engine(tmp_path: Path) -> Driver:
    """A driver of the local engine with one slot."""
    return local(tmp_path / "runs")
