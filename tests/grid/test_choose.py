"""Chosen methods in tables: those listed, those that join, variants, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from kdbench import methods
from kdbench.errors import SpecError
from kdbench.grid.choose import choose, register, with_entries
from kdbench.grid.pairs import pair_name
from kdbench.methods.base import MethodError
from kdbench.spec.choice import MethodChoice, parse_methods, parse_sweeps
from kdbench.spec.table import MethodEntry, Pair, Table
from tests.helpers.tables import cifar_table
from tests.helpers.user_methods import METHOD

ENTRIES = (
    MethodEntry(method="none"),
    MethodEntry(method="kd"),
    MethodEntry(method="dist", options={"weight": 2.0}, mini_options={"tau": 1.0}, mini_skip="slow", gain_over="kd"),
    MethodEntry(method="dist", options={"weight": 3.0}, label="dist, heavy"),
)


@pytest.fixture
def table() -> Table:
    return cifar_table(*ENTRIES)


def chosen(table: Table, choices: Sequence[MethodChoice]) -> dict[str, MethodEntry]:
    [narrowed] = choose([table], choices)
    return {entry.display_name: entry for entry in narrowed.entries(narrowed.pairs[0])}


def test_without_a_choice_tables_stay(table: Table) -> None:
    assert choose([table], ()) == [table]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("kd", ["none", "kd"]),
        ("none", ["none"]),
        ("dist,kd", ["none", "kd", "dist", "dist, heavy"]),
        ("crd", ["none", "crd"]),
        ("dist:tau=2,kd", ["none", "kd", "dist:tau=2"]),
    ],
)
def test_listed_methods_keep_the_tables_order_and_others_join(names: str, expected: list[str], table: Table) -> None:
    assert list(chosen(table, parse_methods(names))) == expected


@pytest.mark.parametrize("given", [["dist, heavy"], "dist, heavy", "dist,heavy"])
def test_a_label_with_a_comma_is_chosen_by_itself(given: str | list[str], table: Table) -> None:
    assert list(chosen(table, parse_methods(given))) == ["none", "dist, heavy"]
    [variant] = parse_methods("dist, heavy:tau=3")[1:]
    assert variant.method == "heavy"
    found = chosen(table, parse_methods("dist, heavy:tau=3,kd"))
    assert list(found) == ["none", "kd", "dist, heavy:tau=3"]
    assert found["dist, heavy:tau=3"].options_at("full")["weight"] == 3.0


def test_a_label_may_have_several_commas() -> None:
    table = cifar_table(*ENTRIES, MethodEntry(method="kd", label="kd, same T, four views"))
    found = list(chosen(table, parse_methods("crd,kd, same T, four views,dist:tau=2")))
    assert found == ["none", "kd, same T, four views", "crd", "dist:tau=2"]


@pytest.mark.parametrize("twice", ["kd", "dist:tau=1", "dist, heavy"])
def test_a_method_given_twice_is_refused(twice: str, table: Table) -> None:
    with pytest.raises(SpecError, match=f"--methods: {twice} is given twice"):
        chosen(table, parse_methods(f"{twice},crd,{twice}"))


def test_a_method_and_labels_that_begin_or_end_alike_are_chosen_together() -> None:
    labels = ("kd, one setting", "dist, one setting")
    table = cifar_table(*ENTRIES, *(MethodEntry(method="dist", label=label) for label in labels))
    assert list(chosen(table, parse_methods("kd,kd, one setting,dist, one setting"))) == ["none", "kd", *labels]


def test_a_comma_between_two_methods_is_no_label() -> None:
    both = cifar_table(*ENTRIES, MethodEntry(method="crd", label="dist, kd"))
    assert list(chosen(both, parse_methods("dist, kd"))) == ["none", "kd", "dist", "dist, heavy"]
    with pytest.raises(SpecError, match="unknown method: 'heavier'"):
        chosen(both, parse_methods("dist, heavier"))


def test_options_given_to_a_method_are_laid_over_the_entry_of_that_name() -> None:
    table = cifar_table(ENTRIES[0], ENTRIES[3], ENTRIES[1], ENTRIES[2])
    variant = chosen(table, parse_methods("dist:tau=3"))["dist:tau=3"]
    assert variant.options_at("full")["weight"] == 2.0


def test_options_are_laid_over_those_of_the_table_at_both_scales(table: Table) -> None:
    entry = chosen(table, parse_methods("dist:tau=2"))["dist:tau=2"]
    assert entry.added and not entry.mini_skip
    assert entry.gain_over == "kd"
    full, mini = entry.options_at("full"), entry.options_at("mini")
    assert (full["weight"], full["tau"], mini["weight"], mini["tau"]) == (2.0, 2.0, 2.0, 2.0)
    kept = chosen(table, parse_methods("dist:beta=3"))["dist:beta=3"]
    assert kept.options_at("mini")["tau"] == 1.0, "the table's own value at mini scale"


def test_a_variant_that_the_table_has_is_the_tables_own(table: Table) -> None:
    found = chosen(table, parse_sweeps("dist.weight=2,3,4"))
    assert list(found) == ["none", "dist", "dist, heavy", "dist:weight=4"]
    assert [entry.added for entry in found.values()] == [False, False, False, True]


def test_a_method_of_another_task_joins_the_tables_of_its_own(table: Table) -> None:
    with pytest.raises(SpecError, match="method skd is for segmentation, and these tables are for classification"):
        choose([table], parse_methods("skd"))


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("kdd", MethodError, "unknown method: 'kdd'. Did you mean 'kd'"),
        ("dist:tux=1", MethodError, "dist:tux=1: unknown option of dist: 'tux'. Did you mean 'tau'"),
        ("dist:tau=x", MethodError, "dist:tau=x: option tau of dist is 'x'; it must be float"),
    ],
)
def test_what_does_not_fit_is_refused(names: str, error: type[Exception], message: str, table: Table) -> None:
    with pytest.raises((error, SpecError)) as raised:
        choose([table], parse_methods(names))
    assert message in str(raised.value)


def test_a_users_file_joins_every_pair(tmp_path: Path) -> None:
    pairs = tuple(Pair(teacher=teacher, student="resnet20") for teacher in ("resnet56", "resnet110"))
    file = tmp_path / "joins.py"
    file.write_text(METHOD.format(name="joins"))
    choices = parse_methods(f"kd,{file}:tau=3")
    register(choices)
    [narrowed] = choose([cifar_table(*ENTRIES, pairs=pairs)], choices)
    for pair in narrowed.pairs:
        entries = narrowed.entries(pair)
        assert [entry.display_name for entry in entries] == ["none", "kd", "joins:tau=3"]
        assert methods.resolve("joins", entries[-1].options_at("full")) == {"tau": 3.0}


def test_entries_that_were_added_come_back_once(table: Table) -> None:
    [narrowed] = choose([table], parse_methods("kd,dist:tau=2"))
    pair = narrowed.pairs[0]
    added = {pair_name(pair): [entry for entry in narrowed.entries(pair) if entry.added]}
    again = with_entries(with_entries(table, added), added)
    assert [entry.display_name for entry in again.entries(again.pairs[0])] == [
        *(entry.display_name for entry in ENTRIES),
        "dist:tau=2",
    ]


def test_what_one_of_several_tables_lists_joins_no_other(table: Table) -> None:
    def names(tables: list[Table], choices: str) -> list[list[str]]:
        chosen = choose(tables, parse_methods(choices))
        return [[entry.display_name for entry in each.entries(each.pairs[0])] for each in chosen]

    other = cifar_table("none", "crd")
    assert names([table, other], "kd,dkd") == [["none", "kd", "dkd"], ["none", "dkd"]]
    assert names([table, other], "crd:dim=64") == [["none"], ["none", "crd:dim=64"]]
