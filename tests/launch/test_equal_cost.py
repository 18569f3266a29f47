"""The student alone, trained for as long as a method costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdbench.grid.plan import Plan
from kdbench.launch.equal_cost import equal_cost_plan
from kdbench.records.row import Row
from kdbench.report.cells import Cell, collect
from kdbench.report.gains import equal_cost_factor
from kdbench.spec.recipe import Recipe, load_recipe, stretched
from kdbench.spec.request import RunRequest
from kdbench.spec.table import MethodEntry, Table
from tests.helpers.rows import DIGITS, make_row
from tests.helpers.tables import cifar_table

NONE, KD, CRD = MethodEntry(method="none"), MethodEntry(method="kd"), MethodEntry(method="crd")


@pytest.fixture(scope="module")
def table() -> Table:
    return cifar_table(NONE, KD, CRD)


def row(table: Table, entry: MethodEntry, value: float, slowdown: float = 1.0, **more: Any) -> Row:
    return make_row(table, table.pairs[0], entry, "mini", 0, value, slowdown=slowdown, **more)


def longer(table: Table, factor: float) -> Recipe:
    return stretched(load_recipe(table.recipe.mini), factor)


@pytest.mark.parametrize(
    ("cost", "factor"), [(None, None), (1.0, None), (1.12, None), (1.13, 1.25), (1.5, 1.5), (1.62, 1.5), (1.63, 1.75)]
)
def test_costs_are_rounded_to_quarters_and_small_ones_are_left_alone(cost: float | None, factor: float | None) -> None:
    assert equal_cost_factor(cost) == factor


def test_a_stretched_recipe_moves_its_milestones_along() -> None:
    recipe = load_recipe("cifar_240")
    changed = stretched(recipe, 1.5)
    assert (changed.epochs, changed.milestones) == (360, (225, 270, 315))
    assert changed == recipe.model_copy(update={"epochs": 360, "milestones": (225, 270, 315)})
    assert stretched(recipe.model_copy(update={"max_steps": 20}), 1.75).max_steps == 35


def planned(table: Table, rows: list[Row]) -> Plan:
    return equal_cost_plan([table], rows, "mini", DIGITS, RunRequest())


def test_the_student_alone_is_planned_once_for_each_cost(table: Table) -> None:
    rows = [row(table, NONE, 60.0), row(table, KD, 63.0, 1.05), row(table, CRD, 64.0, 1.52)]
    (run,) = planned(table, rows).runs
    assert (run.method, run.teacher, run.recipe) == ("none", None, longer(table, 1.5))


def test_nothing_is_planned_before_anything_was_measured(table: Table) -> None:
    assert planned(table, []).runs == []


def test_the_gain_at_equal_cost_is_over_the_student_that_trained_as_long(table: Table) -> None:
    rows = [
        row(table, NONE, 60.0),
        row(table, CRD, 64.0, 1.52),
        row(table, NONE, 63.0, recipe=longer(table, 1.5)),
        row(table, NONE, 99.0, recipe=longer(table, 2.0)),  # of another method's cost
    ]

    def cell(found: list[Row]) -> Cell:
        return next(one for one in collect(table, found, "mini") if one.entry is CRD)

    own = cell(rows)
    assert own.gain and own.gain_equal
    assert (own.gain.mean, own.gain_equal.mean) == (4.0, 1.0)
    assert cell(rows[:2]).gain_equal is None


def test_a_cell_of_the_student_alone_keeps_the_tables_own_recipe(table: Table) -> None:
    rows = [row(table, NONE, 60.0), row(table, NONE, 63.0, recipe=longer(table, 1.5), finished="2027-01-01T00:00:00")]
    none = next(one for one in collect(table, rows, "mini") if one.entry is NONE)
    assert none.measured and none.measured.mean == 60.0
    assert not none.notes  # the longer run is the other side of a gain at equal cost
    assert replace(none, rows=()).gain_equal is None
