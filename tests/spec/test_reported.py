"""The printed numbers: every file fits its schema, cells are found, and what breaks the schema is named by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.errors import SpecError
from kdbench.spec.reported import Reported, find, load_reported, reported_names, student_alone
from kdbench.spec.table import load_table, table_names

COLUMNS = (
    "paper,table,dataset,strategy,teacher,teacher_value,student,student_value,method,metric,value,std,selection,"
    "source,evidence,note"
)
GOOD = "akd,coco,coco,,big,38.9,small,37.4,akd,ap,40.3,,,the README,primary,"


def write(folder: Path, *lines: str, columns: str = COLUMNS) -> Path:
    path = folder / "numbers.csv"
    path.write_text("\n".join([columns, *lines]) + "\n")
    return path


QUOTED = {"nkd": ["vitkd"], "ofakd": ["catkd"]}
"""Papers beside its own whose numbers a file has."""


@pytest.mark.parametrize("name", reported_names())
def test_every_committed_file_fits_the_schema(name: str) -> None:
    rows = load_reported(name)
    assert rows, "a file of reported numbers holds at least one"
    assert len({row.key for row in rows}) == len(rows)
    named = (name, name.split("_")[0], *QUOTED.get(name, ()))
    for row in rows:
        assert row.paper in named
        assert row.source.strip()
        assert row.selection in ("", "last", "best")
        assert row.value is None or 0 <= row.value <= 100
        if row.method == "none" and row.student_value is not None:
            assert row.value == row.student_value, f"{row.key}: `none` is the student alone"
        if row.method == "teacher" and row.teacher_value is not None:
            assert row.value == row.teacher_value, f"{row.key}: the teacher's own score"


@pytest.mark.parametrize("name", table_names())
def test_every_table_finds_its_reported_numbers(name: str) -> None:
    table = load_table(name)
    files = {source.file: load_reported(source.file) for source in table.reported}
    for source in table.reported:
        assert any(row.table == source.table for row in files[source.file]), f"{source.file} has no {source.table}"
    for pair in table.pairs if table.reported else ():
        rows = [row for source in table.reported for row in files[source.file] if row.table == source.table]
        named = {(row.teacher, row.student) for row in rows}
        assert (pair.teacher, pair.student) in named, f"no file reports {pair.teacher} -> {pair.student}"
        for entry in table.entries(pair):
            if entry.reported:
                assert entry.reported in {row.method for row in rows}, (
                    f"{entry.display_name}: {entry.reported} is not reported"
                )


def test_numbers_and_blanks_are_read(tmp_path: Path) -> None:
    blank = "crd,cifar100,cifar100,,wrn,75.61,slim,,fsp,top1,,,last,the README,primary,a note"
    spread = GOOD.replace(",40.3,,", ",40.3,0.25,").replace(",akd,ap", ",dist,ap")
    rows = load_reported(write(tmp_path, GOOD, blank, spread))
    assert (rows[0].value, rows[0].teacher_value, rows[0].student_value, rows[0].std) == (40.3, 38.9, 37.4, None)
    assert (rows[1].value, rows[1].student_value, rows[1].selection) == (None, None, "last")
    assert rows[2].std == 0.25


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (GOOD.replace("40.3", "140.3"), "value"),
        (GOOD.replace("40.3", "forty"), "value"),
        (GOOD.replace("the README", ""), "source"),
        (GOOD.replace("40.3,,,", "40.3,,final,"), "selection"),
        (GOOD.replace("40.3,,,", "40.3,-0.1,,"), "std"),
        (GOOD + ",too many", "comma"),
        ("akd,coco", "fields"),
        (GOOD, "repeats line 2"),
    ],
)
def test_a_broken_line_is_named_by_file_line_and_field(tmp_path: Path, line: str, words: str) -> None:
    path = write(tmp_path, GOOD, line.replace(",akd,ap", ",other,ap") if line != GOOD else line)
    with pytest.raises(SpecError, match=rf"numbers\.csv:3: .*{words}"):
        load_reported(path)


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"numbers\.csv:1: the columns must be paper,table"):
        load_reported(write(tmp_path, GOOD, columns=COLUMNS.replace("metric", "measure")))


def test_an_unknown_file_suggests_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"Did you mean 'maskd'"):
        load_reported("maskdd")


def number(**changes: object) -> Reported:
    values: dict[str, object] = dict(zip(COLUMNS.split(","), GOOD.split(","), strict=True))
    return Reported.model_validate(values | {"std": None} | changes)


CELL = {"table": "coco", "teacher": "big", "student": "small", "metric": "ap"}


def test_find_wants_every_name_to_match() -> None:
    rows = [number(), number(method="maskd", value=39.9), number(teacher="bigger", value=41.0)]
    assert find(rows, method="akd", **CELL) is rows[0]
    assert find(rows, method="maskd", **CELL) is rows[1]
    assert find(rows, method="akd", **{**CELL, "teacher": "bigger"}) is rows[2]
    assert find(rows, method="akd", **{**CELL, "table": "cityscapes"}) is None
    assert find(rows, method="akd", **{**CELL, "metric": "ap50"}) is None


def test_a_cell_that_the_paper_left_blank_has_no_number() -> None:
    assert find([number(value=None)], method="akd", **CELL) is None


def test_a_number_under_several_strategies_is_never_guessed() -> None:
    rows = [number(strategy="b1", value=71.0), number(strategy="b2", value=72.0)]
    with pytest.raises(SpecError, match="strategies 'b1', 'b2'; name one"):
        find(rows, method="akd", **CELL)
    assert find(rows, method="akd", strategy="b2", **CELL) is rows[1]


def test_the_student_alone_is_what_stands_beside_its_distilled_numbers() -> None:
    row = number(std=0.2, note="no config was released for this row")
    found = student_alone([number(student_value=None), row], **CELL)
    assert found is not None
    assert (found.method, found.value, found.std, found.note, found.source) == ("none", 37.4, None, "", "the README")
    kept = student_alone([number(note="student_value is from another recipe")], **CELL)
    assert kept is not None
    assert kept.note == "student_value is from another recipe"
    assert student_alone([row], **{**CELL, "student": "tiny"}) is None
