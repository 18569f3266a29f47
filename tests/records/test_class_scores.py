"""Scores of each class beside a row: read where they are the row's, refused with the reason where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kdbench.records.class_scores import FILE, ClassScores, read_class_scores, write_class_scores
from kdbench.records.row import Row
from kdbench.records.row_file import InvalidRow
from kdbench.spec.table import MethodEntry
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table

TABLE = cifar_table(MethodEntry(method="none"), MethodEntry(method="kd"))


@pytest.fixture
def row() -> Row:
    """A run of 10 classes: student 40.0 %, teacher 60.0 % of 500 images."""
    return make_row(TABLE, TABLE.pairs[0], TABLE.methods[1], "mini", 0, 40.0, teacher_value=60.0)


def scores_of(row: Row, **changes: Any) -> ClassScores:
    assert row.student is not None
    values: dict[str, Any] = {
        "run": row.id,
        "student": row.student.sha256,
        "metric": "accuracy",
        "classes": tuple("abcdefghij"),
        "counts": (100, 300, 100, *[0] * 7),
        "scores": (100.0, 20.0, 40.0, *[None] * 7),
        "teacher": (90.0, 50.0, 60.0, *[None] * 7),
        "confusions": ((1, 2, 200), (2, 0, 60), (1, 0, 40)),
    }
    return ClassScores.model_validate(values | changes)


def test_scores_are_read_as_they_were_written(row: Row, tmp_path: Path) -> None:
    assert read_class_scores(tmp_path, row) is None
    scores = scores_of(row)
    assert write_class_scores(tmp_path, scores) == tmp_path / "classes.json"
    assert read_class_scores(tmp_path, row) == scores
    assert scores.mean(scores.scores) == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run": "0" * 16}, "student: is not the one"),
        ({"student": "ab" * 32}, "student: is not the one"),
        ({"metric": "ap"}, "metric: ap is not of classification"),
        ({"scores": (100.0, 20.0, 41.0, *[None] * 7)}, "scores: their mean is 40.2000, and the row has top1 40.0"),
        ({"scores": (None,) * 10}, "scores: their mean is nan"),
        ({"teacher": (90.0, 50.0, 61.0, *[None] * 7)}, "teacher: their mean is 60.2000, and the row has top1 60.0"),
        (
            {name: (1, 1, 1) if name == "counts" else (40.0,) * 3 for name in ("counts", "scores", "teacher")}
            | {"classes": tuple("abc"), "confusions": ()},
            "classes: are 3, and the row's data has 10",
        ),
    ],
)
def test_scores_of_another_row_are_refused(row: Row, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    write_class_scores(tmp_path, scores_of(row, **changes))
    found = read_class_scores(tmp_path, row)
    assert isinstance(found, InvalidRow) and found.path == tmp_path / FILE and found.reason.startswith(reason)


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": (100, 300)},
        {"scores": (40.0,)},
        {"teacher": (60.0,)},
        {"scores": (101.0, *[0.0] * 9)},
        {"scores": (-1.0, *[0.0] * 9)},
        {"confusions": ((0, 10, 1),)},
        {"confusions": ((3, 3, 1),)},
        {"confusions": ((0, 1, 101),)},
        {"classes": ()},
    ],
)
def test_values_that_do_not_fit_the_classes_are_refused(row: Row, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        scores_of(row, **changes)


def test_every_damaged_byte_is_found(row: Row, tmp_path: Path) -> None:
    path = write_class_scores(tmp_path, scores_of(row))
    content = path.read_bytes()
    for damaged in (content[:-5], content[: len(content) // 2], b"", content.replace(b"0.0", b"0.1", 1), b"{}"):
        path.write_bytes(damaged)
        found = read_class_scores(tmp_path, row)
        assert isinstance(found, InvalidRow) and found.damaged


def test_a_run_without_a_result_has_no_scores(row: Row, tmp_path: Path) -> None:
    write_class_scores(tmp_path, scores_of(row))
    failed = make_row(TABLE, TABLE.pairs[0], TABLE.methods[1], "mini", status="failed")
    assert read_class_scores(tmp_path, failed) is None
