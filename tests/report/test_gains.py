"""Gains of a cell over its references, paired by seed, and what they cost."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kdbench.records.row import Cost, Row
from kdbench.report.cells import Cell, collect
from kdbench.report.gains import cost, gain
from kdbench.spec.run import Data
from kdbench.spec.table import MethodEntry, Pair, Table
from tests.helpers.plans import Choice, plan
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table

ENTRIES = (
    MethodEntry(method="none"),
    MethodEntry(method="kd"),
    MethodEntry(method="fitnet+kd"),
    MethodEntry(method="mag+fitnet", gain_over="fitnet+kd"),
)


@pytest.fixture(scope="module")
def table() -> Table:
    return cifar_table(*ENTRIES)


def rows_of(table: Table, method: str, values: dict[int, float], **more: Any) -> list[Row]:
    entry = next(entry for entry in ENTRIES if entry.method == method)
    return [make_row(table, table.pairs[0], entry, "mini", seed, value, **more) for seed, value in values.items()]


def cell_of(table: Table, rows: list[Row], method: str) -> Cell:
    return next(cell for cell in collect(table, rows, "mini") if cell.entry.method == method)


def test_each_gain_is_over_its_reference_paired_by_seed(table: Table) -> None:
    rows = [
        *rows_of(table, "none", {0: 60.0, 1: 62.0}),
        *rows_of(table, "kd", {0: 63.0, 1: 63.0}),
        *rows_of(table, "fitnet+kd", {0: 64.0, 1: 65.0}),
        *rows_of(table, "mag+fitnet", {0: 66.0, 1: 65.0}),
    ]
    found = cell_of(table, rows, "mag+fitnet")
    assert found.gain and found.gain_kd and found.gain_base
    assert (found.gain.mean, found.gain.n) == (4.5, 2)  # 6 and 3
    assert found.gain.sd == pytest.approx(2.1213, abs=1e-4)
    assert (found.gain_kd.mean, found.gain_kd.n) == (2.5, 2)
    assert (found.gain_base.mean, found.gain_base.n) == (1.0, 2)
    own = cell_of(table, rows, "none")
    assert own.gain is own.gain_kd is own.gain_base is None
    assert cell_of(table, rows, "fitnet+kd").gain_base is None  # it names no entry to gain over


def test_a_seed_that_the_reference_lacks_does_not_count(table: Table) -> None:
    rows = rows_of(table, "mag+fitnet", {0: 66.0, 1: 65.0, 2: 50.0})
    rows += rows_of(table, "none", {0: 60.0, 1: 62.0, 5: 10.0}) + rows_of(table, "kd", {7: 70.0})
    found = cell_of(table, rows, "mag+fitnet")
    assert found.gain and (found.gain.mean, found.gain.n) == (4.5, 2)
    assert found.gain_kd is None and found.gain_base is None


def test_a_run_without_a_number_is_no_reference(table: Table) -> None:
    rows = rows_of(table, "kd", {0: 66.0, 1: 65.0})
    lost = rows_of(table, "none", {0: 60.0}) + rows_of(table, "none", {1: 0.0}, status="diverged")
    found = cell_of(table, rows + lost, "kd").gain
    assert found and (found.mean, found.sd, found.n) == (6.0, None, 1)
    assert cell_of(table, rows + lost[1:], "kd").gain is None
    assert gain({0: 66.0}, {}) is None
    assert gain({}, {0: 60.0}) is None


def test_of_two_rows_of_a_references_seed_the_latest_counts(table: Table) -> None:
    early = rows_of(table, "none", {0: 60.0}, finished="2026-01-01T00:00:00+00:00")
    late = rows_of(table, "none", {0: 61.0}, finished="2026-01-02T00:00:00+00:00")
    for references in (early + late, late + early):
        found = cell_of(table, rows_of(table, "kd", {0: 66.0}) + references, "kd").gain
        assert found and found.mean == 5.0


def test_gain_per_time_is_what_a_doubled_training_time_would_bring(table: Table) -> None:
    rows = rows_of(table, "none", {0: 60.0}, slowdown=1.0) + rows_of(table, "kd", {0: 63.0}, slowdown=1.5)
    found = cell_of(table, rows, "kd")
    assert found.cost and found.cost.factor == pytest.approx(1.5)
    assert found.gain_per_time == pytest.approx(6.0)  # 3 points for half a training time more


@pytest.mark.parametrize("slowdown", [0.9, 1.0, 1.01])
def test_there_is_no_gain_per_time_where_a_method_costs_nothing(slowdown: float, table: Table) -> None:
    rows = rows_of(table, "none", {0: 60.0}, slowdown=1.0) + rows_of(table, "kd", {0: 63.0}, slowdown=slowdown)
    assert cell_of(table, rows, "kd").gain_per_time is None
    assert cell_of(table, rows, "none").gain_per_time is None


def test_there_is_no_gain_per_time_without_a_gain_or_a_time_of_the_same_machine(table: Table) -> None:
    kd = rows_of(table, "kd", {0: 63.0}, slowdown=1.5)
    assert cell_of(table, kd, "kd").gain_per_time is None
    away = rows_of(table, "none", {0: 60.0}, slowdown=1.0, machine="8-core arm")
    found = cell_of(table, kd + away, "kd")
    assert found.gain and found.gain.mean == 3.0 and found.gain_per_time is None
    other = rows_of(table, "none", {3: 60.0}, slowdown=1.0)
    found = cell_of(table, kd + other, "kd")
    assert found.cost and found.cost.factor == pytest.approx(1.5) and found.gain_per_time is None  # no seed in common


def timed(row: Row, **values: float) -> Row:
    assert row.cost
    return row.model_copy(update={"cost": Cost(**(row.cost.model_dump() | values))})


def test_an_earlier_phase_is_spread_over_the_steps_of_the_run(table: Table) -> None:
    (none,), (kd,) = rows_of(table, "none", {0: 60.0}), rows_of(table, "kd", {0: 63.0})
    none, kd = timed(none, step_seconds=0.1), timed(kd, step_seconds=0.1)
    prepared = timed(kd, prepare_seconds=0.05 * kd.history[-1].steps)
    found = cost([prepared], [none])
    assert found and found.factor == pytest.approx(1.5)
    assert replace(found, factor=None, prepare_seconds=0.0) == replace(
        cost([kd], []),
        factor=None,
        prepare_seconds=0.0,  # type: ignore[type-var]
    )


def test_a_run_that_took_no_step_has_no_time_to_compare(table: Table) -> None:
    """Weights that are taken as they are."""
    (none,), (kd,) = rows_of(table, "none", {0: 60.0}), rows_of(table, "kd", {0: 63.0})
    idle = timed(none, step_seconds=0.0, images_per_second=0.0)
    idle = idle.model_copy(update={"history": (idle.history[-1].model_copy(update={"epoch": 0, "steps": 0}),)})
    found = cost([idle], [idle])
    assert found and found.factor is None and found.step_seconds == 0
    compared = cost([kd], [idle])
    assert compared and compared.factor is None
    assert cost([], [none]) is None


OTHER = "the other recipe"
TWO_RECIPES = (
    MethodEntry(method="none"),
    MethodEntry(method="none", label=OTHER, base_recipe="cifar_240_dist", mini_skip="one recipe"),
    MethodEntry(method="kd", gain_over=OTHER),
)


def test_a_gain_is_also_over_the_student_of_another_recipe(table: Table) -> None:
    changed = table.model_copy(update={"methods": TWO_RECIPES})
    rows = [
        make_row(changed, table.pairs[0], entry, "full", seed, value)
        for entry, value in zip(TWO_RECIPES, (72.0, 70.0, 73.0), strict=True)
        for seed in (0, 1)
    ]
    alone, other, kd = collect(changed, rows, "full")
    assert alone.measured and alone.measured.mean == 72.0 and not alone.notes  # no row of the other's is left out
    assert other.measured and other.measured.mean == 70.0 and not other.notes
    assert alone.gain_base is other.gain is None
    assert kd.gain and (kd.gain.mean, kd.gain.n) == (1.0, 2)
    assert kd.gain_base and (kd.gain_base.mean, kd.gain_base.n) == (3.0, 2)


def test_both_recipes_of_a_student_are_run_at_full_scale_alone(table: Table) -> None:
    changed = table.model_copy(
        update={"methods": TWO_RECIPES, "pairs": (Pair(teacher="resnet56", student="resnet20"),)}
    )
    data = Data(name="cifar100", fingerprint="c1", train_images=50_000, val_images=10_000, classes=100)
    runs = plan([changed], Choice("full", data)).runs
    assert sorted(run.recipe.name for run in runs if run.student == "resnet20") == [
        "cifar_240",
        "cifar_240",
        "cifar_240_dist",
    ]
    entries = [entry.model_dump(mode="json") | {"mini_skip": ""} for entry in TWO_RECIPES]
    values = json.dumps(changed.model_dump(mode="json") | {"methods": entries})
    with pytest.raises(ValueError, match="has a recipe of its own, and mini has one recipe; add mini_skip"):
        Table.model_validate_json(values)
