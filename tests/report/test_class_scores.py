"""What `kdbench show` says of classes: best and worst, differences to teacher and `none`, and confusions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kdbench.records.class_scores import FILE, ClassScores, write_class_scores
from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.report.class_scores import none_of
from kdbench.report.runs import print_run
from kdbench.spec.table import MethodEntry
from tests.helpers.rows import DIGITS, make_row
from tests.helpers.tables import cifar_table

TABLE = cifar_table(MethodEntry(method="none"), MethodEntry(method="kd"))


def written(folder: Path, method: int, scores: tuple[float | None, ...], seed: int = 0, **changes: Any) -> Row:
    """The row of a run whose classes have these accuracies, each on ten images, beside its scores."""
    known = [score for score in scores if score is not None]
    data = DIGITS.model_copy(update={"name": TABLE.dataset.mini, "classes": len(scores)})
    mean = sum(known) / len(known)
    row = make_row(TABLE, TABLE.pairs[0], TABLE.methods[method], "mini", seed, mean, teacher_value=70.0, data=data)
    assert row.student is not None
    Store(folder).write(row)
    values: dict[str, Any] = {
        "run": row.id,
        "student": row.student.sha256,
        "metric": "accuracy",
        "classes": tuple(f"class {i}" for i in range(len(scores))),
        "counts": tuple(0 if score is None else 10 for score in scores),
        "scores": scores,
        "teacher": tuple(None if score is None else 70.0 for score in scores) if row.teacher else None,
    }
    write_class_scores(folder / row.id, ClassScores.model_validate(values | changes))
    return row


def printed(folder: Path, row: Row) -> str:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    print_run(folder, row.id, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return line.removeprefix(name).split()


def test_classes_are_printed_best_first_with_their_differences(tmp_path: Path) -> None:
    written(tmp_path, 0, (40.0, 50.0, 60.0, None))
    pairs = ((0, 1, 3), (2, 0, 1))
    row = written(tmp_path, 1, (50.0, 90.0, 55.0, None), confusions=pairs)
    text = printed(tmp_path, row)
    assert cells(text, "class 0") == ["10", "50.00", "-20.00", "+10.00"]
    assert cells(text, "class 1") == ["10", "90.00", "+20.00", "+40.00"]
    assert cells(text, "class 2") == ["10", "55.00", "-15.00", "-5.00"]
    assert text.index("class 1 ") < text.index("class 2 ") < text.index("class 0 ")
    assert "not in the validation set: class 3" in text
    assert "class 0 -> class 1: 3 of 10 images (30.0 %)" in text


def test_of_many_classes_the_five_best_and_the_five_worst_are_printed(tmp_path: Path) -> None:
    row = written(tmp_path, 1, tuple(float(i) for i in range(0, 100, 4)))
    text = printed(tmp_path, row)
    shown = [i for i in range(25) if f"\nclass {i} " in text]
    assert shown == [*range(5), *range(20, 25)] and "\n... " in text
    assert cells(text, "class 24") == ["10", "96.00", "+26.00"]  # no run of `none`, no difference to it


def test_none_is_of_the_same_seed_student_and_recipe(tmp_path: Path) -> None:
    rows = [written(tmp_path, method, (40.0, 50.0), seed) for seed in (0, 1) for method in (0, 1)]
    assert none_of(rows[3], rows) is rows[2] and none_of(rows[1], rows) is rows[0]
    assert none_of(rows[0], rows) is None and none_of(rows[1], rows[1:]) is None


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_file_is_named_and_the_rest_is_shown(which: int, tmp_path: Path) -> None:
    rows = [written(tmp_path, method, (40.0, 50.0)) for method in (0, 1)]
    path = tmp_path / rows[which].id / FILE
    path.write_bytes(path.read_bytes()[:-3])
    text = printed(tmp_path, rows[1])
    assert f"{path}: checksum: differs" in text.replace("\n", "") and f"run {rows[1].id}" in text
    assert ("\nclass 0 " in text) == (which == 0)
    assert which == 1 or cells(text, "class 0") == ["10", "40.00", "-30.00"]


def test_a_run_without_the_file_is_shown_without_classes(tmp_path: Path) -> None:
    row = written(tmp_path, 1, (40.0, 50.0))
    (tmp_path / row.id / FILE).unlink()
    assert "class 0" not in printed(tmp_path, row)
