"""What stands around the runs: planning, reading rows, building tables, starting the command."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kdbench.grid.plan import Plan
from kdbench.records.store import Store, read_rows
from kdbench.report.cells import collect
from kdbench.report.table_view import table_view
from kdbench.spec.table import Table, load_table, table_names
from tests.helpers.plans import Choice, plan

from . import synthetic
from .conftest import Scope
from .turns import in_turn, record


def cifar_tables() -> list[Table]:
    return [table for table in map(load_table, table_names()) if table.dataset.full == "cifar100"]


@pytest.mark.parametrize("runs", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_planning(runs: int, benchmark: BenchmarkFixture, scope: Scope) -> None:
    """All CIFAR-100 tables with as many seeds as make that many runs, in cohorts of 12."""
    tables = cifar_tables()

    def planned(seeds: int) -> Plan:
        return plan(tables, Choice("full", synthetic.CIFAR100, seeds=tuple(range(seeds)), cohort=12))

    seeds = next(n for n in count(1) if n * len(planned(1).runs) >= runs)
    times = in_turn(benchmark, scope.rounds(4), {"own": lambda: planned(seeds)})
    made = len(planned(seeds).runs)
    record(benchmark, "ms a run", [1000 * one["own"] / made for one in times])


@pytest.mark.parametrize("rows", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_building_a_table(rows: int, benchmark: BenchmarkFixture, scope: Scope) -> None:
    """Cells, verdicts and the table to print, from rows that were read and not looked at before."""
    table = load_table("crd/cifar100")
    sets = [synthetic.rows(table, rows) for _ in range(1 if rows == 100_000 else scope.rounds(8))]
    rounds = len(sets)
    in_turn(benchmark, rounds, {"own": lambda: table_view(table, collect(table, sets.pop(), "full"), "full")}, warmup=0)


def test_reading_rows(benchmark: BenchmarkFixture, scope: Scope, tmp_path: Path) -> None:
    """240 epochs of history in each."""
    store = Store(tmp_path)
    made = synthetic.rows(load_table("crd/cifar100"), 100)
    for row in made:
        store.write(row.model_copy(update={"id": row.run.id}))
    times = in_turn(benchmark, scope.rounds(8), {"own": lambda: read_rows([tmp_path])})
    record(benchmark, "ms a row", [1000 * one["own"] / len(made) for one in times])
    assert len(read_rows([tmp_path])[0]) == len(made)


def test_start_of_the_command(benchmark: BenchmarkFixture, scope: Scope) -> None:
    """`kdbench --help` in a process of its own."""
    command = [sys.executable, "-m", "kdbench", "--help"]
    in_turn(benchmark, scope.rounds(12), {"own": lambda: subprocess.run(command, check=True, capture_output=True)})
