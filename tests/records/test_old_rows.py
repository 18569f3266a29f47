"""Rows that an earlier version wrote are still read: of 2026, before recipes and runs got further fields."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdbench.records.row import Row
from kdbench.records.row_file import with_checksum
from kdbench.records.store import InvalidRow, Store, read_row
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table

FILES = sorted((Path(__file__).parents[1] / "data" / "rows_2026").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_row_of_2026_is_read(path: Path) -> None:
    row = read_row(path)
    assert isinstance(row, Row), row
    assert row.id == path.stem and row.status == "done" and row.metrics and row.history


def test_they_are_of_a_student_alone_and_of_one_with_a_frozen_teacher() -> None:
    rows = [row for path in FILES if isinstance(row := read_row(path), Row)]
    assert {row.run.method: row.teacher is not None for row in rows} == {"none": False, "kd": True}


def test_a_row_that_says_whether_steps_were_captured_is_read(tmp_path: Path) -> None:
    content = json.loads(FILES[0].read_text())
    content["cost"]["captured"] = False
    file = tmp_path / "row.json"
    file.write_text(json.dumps(content))
    row = read_row(file)
    assert isinstance(row, Row) and row == read_row(FILES[0])
    assert "captured" not in row.model_dump()["cost"]
    content["cost"]["graphs"] = False
    file.write_text(json.dumps(content))
    assert isinstance(read_row(file), InvalidRow)


def test_an_old_row_in_float32_is_of_ieee() -> None:
    for path in FILES:
        assert json.loads(path.read_text())["run"]["recipe"]["precision"] == "float32"
        row = read_row(path)
        assert isinstance(row, Row) and row.run.recipe.precision == "ieee"


def test_a_row_in_float32_is_that_of_the_run_in_ieee(tmp_path: Path) -> None:
    table = fixed_table("dist/coco")
    row = make_row(table, table.pairs[0], table.methods[1], "mini")
    path = Store(tmp_path).write(row)
    written = path.read_bytes()
    assert written.count(b'"precision": "ieee"') == 2 and row.run.teacher is not None
    body = written[: written.rindex(b',\n "checksum"')].replace(b'"ieee"', b'"float32"')
    path.write_bytes(with_checksum(body))
    assert read_row(path, row.run.id) == row


def test_the_optimizer_of_an_old_row_is_read_under_its_current_name() -> None:
    for path in FILES:
        written = json.loads(path.read_text())["run"]
        row = read_row(path)
        assert isinstance(row, Row) and row.run.recipe.optimizer == written["recipe"]["optimiser"]
        if row.run.teacher:
            assert row.run.teacher.recipe.optimizer == written["teacher"]["recipe"]["optimiser"]
