"""`kdbench check` says which trained students are gone or have changed since their rows were written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kdbench.launch.check import row_problems
from kdbench.records.checkpoint import sha256
from kdbench.records.store import Store
from kdbench.records.students import unusable_students
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table


def flipped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: None, ""),
        (flipped, "its sha256 differs"),
        (Path.unlink, "is missing"),
        (a_fifo, "is no file"),
    ],
)
def test_a_student_that_is_not_its_rows_is_named(change: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    table, store = fixed_table("dist/coco"), Store(tmp_path / "runs")
    row = make_row(table, table.pairs[0], table.methods[0], "mini")
    path = store.folder(row.id) / "student.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert row.student
    row = row.model_copy(update={"student": row.student.model_copy(update={"sha256": sha256(path)})})
    store.write(row)
    change(path)
    found = list(unusable_students(store.root, [row]))
    assert len(found) == bool(words) and all(line.startswith(f"{path}: ") and words in line for line in found)
    assert list(unusable_students(tmp_path / "baselines", [row])) == []
    if words:
        assert (found[0], True) in list(row_problems([store.root]))
