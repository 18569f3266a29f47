"""The student alone and plain KD, trained for as long as a method costs."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.grid.choose import choose, with_kd
from kdbench.grid.plan import Plan
from kdbench.launch.equal_cost import equal_cost_plan
from kdbench.records.row import Row
from kdbench.regress.compare import compare
from kdbench.regress.terminal import labels
from kdbench.report import files
from kdbench.report.cells import Cell, collect
from kdbench.report.gains import equal_cost_factor, equal_cost_recipe, is_longer
from kdbench.report.table_view import table_view
from kdbench.spec.choice import parse_methods
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
    ("cost", "factor"),
    [(None, None), (0.5, 1.0), (1.0, 1.0), (1.12, 1.0), (1.13, 1.25), (1.5, 1.5), (1.62, 1.5), (1.63, 1.75)],
)
def test_costs_are_rounded_to_quarters_and_nothing_is_trained_shorter(cost: float | None, factor: float | None) -> None:
    assert equal_cost_factor(cost) == factor


def test_a_stretched_recipe_moves_its_milestones_along() -> None:
    recipe = load_recipe("cifar_240")
    changed = stretched(recipe, 1.5)
    assert (changed.epochs, changed.milestones) == (360, (225, 270, 315))
    assert changed == recipe.model_copy(update={"epochs": 360, "milestones": (225, 270, 315)})
    assert stretched(recipe.model_copy(update={"max_steps": 20}), 1.75).max_steps == 35


def test_a_stretched_recipe_is_told_from_others_whatever_was_rounded() -> None:
    for recipe in (load_recipe("cifar_240"), load_recipe("cifar_mini").model_copy(update={"epochs": 3})):
        assert all(is_longer(stretched(recipe, quarters / 4), recipe) for quarters in range(6, 40))
        longer = stretched(recipe, 1.5)
        assert not is_longer(recipe, recipe) and not is_longer(recipe, longer)
        assert not is_longer(longer.model_copy(update={"lr": 9.0}), recipe)
        assert not is_longer(longer.model_copy(update={"milestones": (1,)}), recipe)


def test_too_few_epochs_to_stretch_are_no_comparison_at_equal_cost() -> None:
    recipe = load_recipe("cifar_240").model_copy(update={"epochs": 1, "milestones": ()})
    assert equal_cost_recipe(recipe, 1.25) is None
    assert equal_cost_recipe(recipe, None) is None
    assert equal_cost_recipe(recipe, 1.75) == recipe.model_copy(update={"epochs": 2})


def planned(table: Table, rows: list[Row], **request: Any) -> Plan:
    return equal_cost_plan([table], rows, "mini", DIGITS, RunRequest(**request))


def names(plan: Plan) -> list[tuple[str, int, int]]:
    return sorted((run.method, run.recipe.epochs, run.seed) for run in plan.runs)


def test_each_reference_is_planned_once_for_each_cost_over_its_own(table: Table) -> None:
    rows = [row(table, NONE, 60.0), row(table, KD, 63.0, 1.25), row(table, CRD, 64.0, 2.5)]
    plan = planned(table, rows, seeds=(0, 3))
    by_method = {run.method: run for run in plan.runs if run.recipe != longer(table, 1.25)}
    assert by_method["none"].teacher is None and by_method["none"].recipe == longer(table, 2.5)
    assert by_method["kd"] == rows[1].run.model_copy(update={"recipe": longer(table, 2.0), "seed": 3})
    assert sorted({(run.method, run.recipe.epochs) for run in plan.runs}) == [
        ("kd", longer(table, 2.0).epochs),
        ("none", longer(table, 1.25).epochs),  # for kd
        ("none", longer(table, 2.5).epochs),
    ]
    assert len(plan.runs) == 6  # two seeds


def test_kd_has_the_teacher_and_options_of_its_own_rows(table: Table) -> None:
    kd = row(table, KD, 63.0, 1.0)
    given = kd.model_copy(update={"run": kd.run.model_copy(update={"teacher_file": "ef" * 32})})
    (none, longer_kd) = sorted(
        planned(table, [row(table, NONE, 60.0), given, row(table, CRD, 64.0, 1.5)]).runs,
        key=lambda run: run.teacher_file or "",
    )
    assert none.method == "none"
    assert (longer_kd.teacher_file, longer_kd.options) == ("ef" * 32, kd.run.options)


def test_a_method_that_takes_as_long_as_kd_needs_no_longer_kd(table: Table) -> None:
    plan = planned(table, [row(table, NONE, 60.0), row(table, KD, 63.0, 1.5), row(table, CRD, 64.0, 1.6)])
    assert {run.method for run in plan.runs} == {"none"}


def test_costs_of_another_machine_than_the_references_are_unknown(table: Table) -> None:
    rows = [row(table, NONE, 60.0), row(table, KD, 63.0, 1.0, machine="8-core arm"), row(table, CRD, 64.0, 1.5)]
    assert {run.method for run in planned(table, rows).runs} == {"none"}
    lost = row(table, CRD, 64.0, status="failed")
    assert planned(table, [*rows[:1], row(table, KD, 63.0, 1.0), lost]).runs == []


def test_nothing_is_planned_before_anything_was_measured(table: Table) -> None:
    assert planned(table, []).runs == []


def cell_of(table: Table, rows: list[Row], entry: MethodEntry) -> Cell:
    return next(cell for cell in collect(table, rows, "mini") if cell.entry == entry)


def means(cell: Cell) -> tuple[float | None, ...]:
    gains = cell.gain, cell.gain_kd, cell.gain_equal, cell.gain_kd_equal
    return tuple(gain.mean if gain else None for gain in gains)


def measured(table: Table) -> list[Row]:
    """Rows under the table's recipe: `kd` takes 1.25, `crd` 1.5 of the time of `kd`."""
    return [row(table, NONE, 60.0), row(table, KD, 61.5, 1.25), row(table, CRD, 64.0, 1.875)]


def references(table: Table) -> list[Row]:
    """What is trained longer for `crd`: `none` 2 times as long, `kd` 1.5 times."""
    late = {"finished": "2027-01-01T00:00:00+00:00"}
    return [
        row(table, NONE, 63.0, recipe=longer(table, 2.0), **late),
        row(table, KD, 63.5, recipe=longer(table, 1.5), **late),
        row(table, NONE, 99.0, recipe=longer(table, 3.0), **late),  # of another method's cost
        row(table, KD, 99.0, recipe=longer(table, 2.0), **late),  # of the cost over `none`
    ]


def test_gains_at_equal_cost_are_over_references_that_trained_as_long(table: Table) -> None:
    rows = [*measured(table), *references(table)]
    assert means(cell_of(table, rows, CRD)) == (4.0, 2.5, 1.0, 0.5)
    assert means(cell_of(table, measured(table), CRD)) == (4.0, 2.5, None, None)
    assert means(cell_of(table, [*measured(table), references(table)[1]], CRD)) == (4.0, 2.5, None, 0.5)


def test_a_method_that_takes_no_longer_has_its_plain_gain_at_equal_cost(table: Table) -> None:
    wide = cifar_table(NONE, KD, CRD, "dkd", "at")
    fast = [row(wide, wide.methods[3], 62.0, 1.3), row(wide, wide.methods[4], 61.0, 1.1)]
    rows = [*measured(wide), *references(wide), *fast]
    dkd, at = (cell_of(wide, rows, entry) for entry in wide.methods[3:])
    assert means(dkd) == (2.0, 0.5, None, 0.5)  # `none` was not trained for 1.25
    assert means(at) == (1.0, -0.5, 1.0, -0.5)  # faster than `kd`
    assert means(cell_of(wide, [*measured(wide), *fast], wide.methods[4])) == (1.0, -0.5, None, None)
    away = [row(wide, wide.methods[4], 61.0, 1.1, machine="8-core arm")]
    assert means(cell_of(wide, [*measured(wide), *references(wide), *away], wide.methods[4]))[2:] == (None, None)


@pytest.mark.parametrize("epochs", [None, 6])
def test_references_keep_the_recipe_of_the_methods(table: Table, epochs: int | None) -> None:
    """Also under a user's `--set epochs`, where neither recipe is the table's."""
    rows = [*measured(table), *references(table)]
    if epochs:
        recipe = load_recipe(table.recipe.mini).model_copy(update={"epochs": epochs, "milestones": (3,)})
        short = {"recipe": recipe}
        rows = [
            row(table, NONE, 60.0, **short),
            row(table, KD, 61.5, 1.25, **short),
            row(table, CRD, 64.0, 1.875, **short),
        ]
        rows += [
            row(table, NONE, 63.0, recipe=stretched(recipe, 2.0), finished="2027-01-01T00:00:00+00:00"),
            row(table, KD, 63.5, recipe=stretched(recipe, 1.5), finished="2027-01-01T00:00:00+00:00"),
        ]
    none, kd = cell_of(table, rows, NONE), cell_of(table, rows, KD)
    assert none.measured and none.measured.mean == 60.0
    assert kd.measured and kd.measured.mean == 61.5
    assert means(kd)[:2] == (1.5, None)
    assert not [note for note in (*none.notes, *kd.notes) if "left out" in note]  # the other side of a gain
    assert means(cell_of(table, rows, CRD)) == (4.0, 2.5, 1.0, 0.5)


def test_a_stretched_recipe_that_is_nearer_to_the_tables_counts_only_where_it_is_the_tables(table: Table) -> None:
    own = load_recipe(table.recipe.mini)
    short = own.model_copy(update={"epochs": own.epochs // 2, "milestones": (), "max_steps": 12})
    rows = [row(table, entry, value, recipe=short) for entry, value in ((NONE, 60.0), (KD, 61.0), (CRD, 62.0))]
    rows.append(row(table, NONE, 63.0, recipe=stretched(short, 2.0)))
    none = cell_of(table, rows, NONE)
    assert none.measured and none.measured.mean == 60.0  # the longer one has the table's epochs
    none = cell_of(table, [*rows, row(table, NONE, 70.0)], NONE)
    assert none.measured and none.measured.mean == 70.0


def test_longer_runs_of_every_method_are_another_recipe(table: Table) -> None:
    recipes = [load_recipe(table.recipe.mini).model_copy(update={"epochs": epochs}) for epochs in (20, 40)]
    rows = [
        row(table, entry, value + i, recipe=recipe, finished=f"2027-01-0{i + 1}T00:00:00+00:00")
        for i, recipe in enumerate(recipes)
        for entry, value in ((NONE, 60.0), (KD, 61.0), (CRD, 62.0))
    ]
    shown = [cell.measured.mean for cell in collect(table, rows, "mini") if cell.measured]
    assert shown == [61.0, 62.0, 63.0]  # the latest of each
    assert [
        cell.measured.mean
        for cell in collect(table, [r for r in rows if r.run.method != "crd"], "mini")[:2]
        if cell.measured
    ] == [61.0, 62.0]


def with_teacher(row: Row, sha256: str) -> Row:
    assert row.teacher
    return row.model_copy(update={"teacher": row.teacher.model_copy(update={"sha256": sha256})})


def test_kd_of_another_teacher_is_no_reference_at_equal_cost(table: Table) -> None:
    none, kd, *_ = references(table)
    rows = [*measured(table), none, with_teacher(kd, "ee" * 32)]
    assert means(cell_of(table, rows, CRD)) == (4.0, 2.5, 1.0, None)


def test_stale_references_are_left_out_and_noted(table: Table) -> None:
    none, kd, *_ = references(table)
    rows = [*measured(table), none, kd.model_copy(update={"code": "0" * 16})]
    crd = cell_of(table, rows, CRD)
    assert means(crd) == (4.0, 2.5, 1.0, None)
    assert crd.notes == (
        "stale: 1 row of kd trained as long as this method left out; `kdbench run --equal-cost` does them again",
    )


def test_the_reference_is_plain_kd_and_not_a_variant(table: Table) -> None:
    variant = MethodEntry(method="kd", options={"temperature": 2.0}, label="kd:temperature=2", added=True)
    wide = cifar_table(NONE, variant, CRD, MethodEntry(method="kd", added=True))
    plain = wide.methods[3]
    rows = [
        row(wide, NONE, 60.0),
        row(wide, plain, 61.5, 1.25),
        row(wide, variant, 63.0, 1.25),
        row(wide, CRD, 64.0, 1.875),
    ]
    assert [means(cell_of(wide, rows, entry))[1] for entry in (plain, variant, CRD)] == [None, 1.5, 2.5]
    kds = [run for run in planned(wide, rows).runs if run.method == "kd"]
    assert [run.options for run in kds] == [rows[1].run.options]


def test_columns_and_the_footnote_are_there_where_a_reference_was_trained_longer(table: Table) -> None:
    def printed(rows: list[Row]) -> str:
        return files.markdown(table_view(table, collect(table, rows, "mini"), "mini"))

    alone = printed([*measured(table), references(table)[0]])
    assert "gain over none at equal cost" in alone and "gain over kd at equal cost" not in alone
    both = printed([*measured(table), *references(table)])
    assert "gain over kd at equal cost" in both and "At equal cost: `none` or `kd` trained" in both
    assert "at equal cost" not in printed(measured(table)).lower()
    frame = files.csv_frame(table, collect(table, [*measured(table), *references(table)], "mini")).set_index("method")
    assert frame.loc["crd", "gain_kd_equal"] == 0.5 and frame.loc["crd", "time_over_kd"] == pytest.approx(1.5)
    assert frame["gain_kd_equal"].isna().to_dict() == {"none": True, "kd": True, "crd": False}


def test_longer_references_are_cells_of_their_own_in_a_comparison(table: Table) -> None:
    rows = [*measured(table), *references(table)]
    again = [r.model_copy(update={"finished": "2028-01-01T00:00:00+00:00"}) for r in rows]
    changes = compare(rows, again)
    assert len(changes) == len(rows) and {change.accuracy.word for change in changes} == {"unchanged"}
    assert len(set(labels(changes).values())) == len(rows)


def with_kd_in(*methods: MethodEntry | str, chosen: str = "", task: str = "classification") -> list[str]:
    table = cifar_table(*methods, task=task)
    (joined,) = with_kd(choose([table], parse_methods(chosen)), [table])
    return [entry.display_name for entry in joined.entries(joined.pairs[0])]


def test_kd_joins_where_a_table_or_a_request_leaves_it_out() -> None:
    assert with_kd_in("none", "kd", "crd", chosen="crd") == ["none", "crd", "kd"]
    assert with_kd_in("none", "crd") == ["none", "crd", "kd"]
    assert with_kd_in("none", "kd", "crd") == ["none", "kd", "crd"]
    assert with_kd_in("none", "kd", "crd", chosen="kd:temperature=2") == ["none", "kd:temperature=2", "kd"]
    assert with_kd_in("none", "crd", chosen="kd") == ["none", "kd"]
    assert with_kd_in("none", "kd", "crd", chosen="none") == ["none"]
    assert with_kd_in("none", "cwd", task="detection") == ["none", "cwd"]
