"""A plan of three runs, their rows, and an engine with its driver; short runs, and a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kdbench.engines import driver as driver_module
from kdbench.engines.driver import Driver
from kdbench.grid.plan import Plan
from kdbench.records.row import Row
from tests.helpers.engines import local
from tests.helpers.pictures import Pictures
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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers look often at what others do, and no cluster is named outside of the tests."""
    monkeypatch.setattr(driver_module, "POLL", 0.2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two CPUs, which this process uses."""
    from tests.helpers.ray_jobs import ray_cluster

    with ray_cluster() as address:
        yield address


@pytest.fixture(scope="module")
def undisturbed(pictures: Pictures) -> Row:
    """The row of `ray_jobs.long`, trained in this process."""
    from tests.helpers import ray_jobs

    return ray_jobs.undisturbed(pictures)
