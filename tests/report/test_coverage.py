"""Coverage of reported numbers: each is reachable or unsupported with a reason, and a gap is named with its fix."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.report.coverage import Numbers, coverage, uncovered
from kdbench.spec.reported import Reported, load_reported, reported_names
from kdbench.spec.table import MethodEntry, Pair, ReportedTable, Table, Unreachable, load_table, table_names
from tests.helpers.tables import cifar_table


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    return [load_table(name) for name in table_names()]


@pytest.fixture(scope="module")
def reported() -> Numbers:
    return {name: load_reported(name) for name in reported_names()}


def number(method: str, **changes: Any) -> Reported:
    """A row of `dist.csv` about ResNet-34 -> ResNet-18 on ImageNet in strategy b1."""
    values: dict[str, Any] = {
        "paper": "dist", "table": "imagenet", "dataset": "imagenet", "strategy": "b1", "teacher": "resnet34",
        "teacher_value": 73.31, "student": "resnet18", "student_value": 69.76, "method": method, "metric": "top1",
        "value": 72.07, "std": None, "selection": "", "source": "README", "evidence": "primary", "note": "",
    }  # fmt: skip
    return Reported.model_validate(values | changes)


def table_of(*entries: MethodEntry, unreachable: tuple[Unreachable, ...] = (), **pair: Any) -> Table:
    """A table about `number`'s rows with one pair, and these entries beside `none`."""
    names: dict[str, Any] = {"teacher": "resnet34", "student": "resnet18", "strategy": "b1"}
    one = Pair(**(names | pair), methods=(MethodEntry(method="none"), *entries))
    numbers = (ReportedTable(file="dist", table="imagenet"),)
    return cifar_table(name="dist/imagenet", pairs=(one,), reported=numbers, unreachable=unreachable)


DIST = MethodEntry(method="dist")


def test_every_number_of_a_table_in_the_tree_is_reachable_or_unsupported(
    tables: list[Table], reported: Numbers
) -> None:
    assert uncovered(tables, reported) == []


def test_the_tree_reaches_what_it_promises(tables: list[Table], reported: Numbers) -> None:
    found = {one.file: one for one in coverage(tables, reported)}
    promised = {"crd": 188, "granularity": 161, "dkd": 26, "torchdistill": 6, "dist": 37}
    assert all(found[name].reachable >= count for name, count in promised.items())
    assert {name for name in promised if found[name].unreachable} == {"granularity"}
    for name, one in found.items():
        printed = sum(row.value is not None for row in reported[name])
        others = (one.unreachable, one.no_table, one.no_method, one.no_dataset)
        assert one.reachable + one.elsewhere + one.logs + sum(counter.total() for counter in others) == printed
        assert all(one.unreachable), "every unsupported number has a reason"


def test_one_more_reported_row_is_found(tables: list[Table], reported: Numbers) -> None:
    more = {**reported, "dist": [*reported["dist"], number("a_new_method")]}
    (problem,) = uncovered(tables, more)
    assert problem.startswith("imagenet: resnet34 -> resnet18 a_new_method (b1) has no run: dist/imagenet has no")


@pytest.mark.parametrize("strategy", ["b2", None])
def test_a_wrong_strategy_is_found(strategy: str | None) -> None:
    (problem,) = uncovered([table_of(DIST, strategy=strategy)], {"dist": [number("dist")]})
    assert f"no such pair under the strategy 'b1' (there is {strategy or ''!r})" in problem


def test_a_removed_pair_a_removed_method_and_another_metric_are_found() -> None:
    rows = {"dist": [number("dist")]}
    assert "has no such pair; add it" in uncovered([table_of(DIST, student="resnet50")], rows)[0]
    assert "has no dist for this pair" in uncovered([table_of()], rows)[0]
    assert "is about top1" in uncovered([table_of(DIST)], {"dist": [number("dist", metric="top5")]})[0]


def test_an_entry_counts_under_the_name_that_the_paper_gives_it() -> None:
    entry = MethodEntry(method="dist", label="ours", reported="dist_t4")
    assert uncovered([table_of(entry)], {"dist": [number("dist_t4")]}) == []
    assert uncovered([table_of(entry)], {"dist": [number("dist")]})


def test_a_control_reaches_no_number() -> None:
    control = MethodEntry(method="dist", label="dist, more epochs", control=True)
    assert "has no dist for this pair" in uncovered([table_of(control)], {"dist": [number("dist")]})[0]
    assert uncovered([table_of(control, DIST)], {"dist": [number("dist")]}) == []


def test_a_name_that_some_table_gives_a_method_waits_for_a_table_alone() -> None:
    entry = MethodEntry(method="dist", reported="dist_t4")
    (found,) = coverage([table_of(entry)], {"cirkd": [number("dist_t4"), number("dist_t9")]})
    assert (dict(found.no_table), dict(found.no_method)) == ({"imagenet": 1}, {"dist_t9": 1})


@pytest.mark.parametrize("student", ["resnet18", ""])
def test_teachers_and_students_alone_belong_to_the_pair(student: str) -> None:
    rows = {"dist": [number("teacher", student=student), number("none")]}
    (found,) = coverage([table_of()], rows)
    assert (found.reachable, found.problems) == (2, [])


def test_a_blank_cell_does_not_count() -> None:
    (found,) = coverage([table_of()], {"dist": [number("dist", value=None)]})
    assert found.line == "reported dist: 0 numbers, 0 reachable"


def test_unsupported_numbers_are_counted_by_reason() -> None:
    skipped = table_of(DIST, skip="no such network")
    (found,) = coverage([skipped], {"dist": [number("dist"), number("kd")]})
    assert found.line == "reported dist: 2 numbers, 0 reachable, 2 unreachable (no such network: 2)"
    unsupported = table_of(unreachable=(Unreachable(reason="never released", method="dist"),))
    (found,) = coverage([unsupported], {"dist": [number("dist"), number("none")]})
    assert found.line == "reported dist: 2 numbers, 1 reachable, 1 unreachable (never released: 1)"


def test_what_is_unsupported_must_not_also_run_nor_fit_nothing() -> None:
    unsupported = Unreachable(reason="never released", method="dist", teacher="resnet34", student="resnet18")
    (problem,) = uncovered([table_of(DIST, unreachable=(unsupported,))], {"dist": [number("dist")]})
    assert "has a run and is also listed" in problem
    other = unsupported.model_copy(update={"student": "resnet50"})
    (problem,) = uncovered([table_of(DIST, unreachable=(other,))], {"dist": [number("dist")]})
    assert problem == "dist/imagenet: unreachable[0] matches no reported number; remove it"


def test_numbers_without_a_table_are_counted_and_are_no_problem() -> None:
    rows = {"dist": [number("dist"), number("dist", table="camvid")], "cirkd": [number("cirkd")]}
    assert uncovered([table_of(DIST)], rows) == []
    assert [one.line for one in coverage([table_of(DIST)], rows)] == [
        "reported dist: 2 numbers, 1 reachable, 1 in no table yet (camvid: 1)",
        "reported cirkd: 1 number, 0 reachable, 1 in no table yet (imagenet: 1)",
    ]


def test_numbers_without_a_table_may_be_in_another_papers_or_of_logs_or_name_no_teacher() -> None:
    rows = [
        number("dist", dataset="cifar100", table="cifar100"),
        number("none", dataset="cifar100", table="cifar100"),
        number("dist", dataset="cifar100", table="cifar100", student="resnet50"),
        number("dist", source="a log", table="logs"),
        number("dist", teacher="", teacher_value=None, table="others"),
    ]
    table = table_of(DIST)
    assert table.dataset.full == "cifar100"
    (found,) = coverage([table], {"cirkd": rows}, logs={"a log"})
    assert found.line == (
        "reported cirkd: 5 numbers, 0 reachable, 2 in other papers' tables, 1 of the authors' logs, which stand beside "
        "reported numbers, 1 unreachable (its table names no teacher: 1), 1 in no table yet (cifar100: 1)"
    )
    assert uncovered([table], {"cirkd": rows}) == []


def test_a_number_about_an_unknown_data_set_waits_for_it_whatever_its_method() -> None:
    rows = [number(method, table="others", dataset="voc") for method in ("dist", "a_new_method")]
    (found,) = coverage([table_of(DIST)], {"dist": [number("dist"), *rows]})
    assert found.line == "reported dist: 3 numbers, 1 reachable, 2 wait for a data set (voc: 2)"


def test_a_metric_that_is_not_measured_is_unsupported_for_every_pair() -> None:
    unmeasured = (Unreachable(reason="not measured", metric="top5"),)
    rows = [number("dist"), number("dist", metric="top5"), number("kd", metric="top5", teacher="resnet50")]
    (found,) = coverage([table_of(DIST, unreachable=unmeasured)], {"dist": rows})
    assert found.line == "reported dist: 3 numbers, 1 reachable, 2 unreachable (not measured: 2)"


def test_a_line_names_what_is_uncovered() -> None:
    (found,) = coverage([table_of()], {"dist": [number("dist"), number("none")]})
    assert found.line.startswith("reported dist: 2 numbers, 1 reachable, 1 uncovered: imagenet: resnet34 -> resnet18")
