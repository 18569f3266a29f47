"""A user's data: tables of its own, apart from the paper's."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from kdbench.errors import SpecError
from kdbench.records.row import Row
from kdbench.report.own_data import for_data, results_on, with_results
from kdbench.report.plots import draw_all
from kdbench.report.terminal import print_tables
from kdbench.spec.table import Table
from tests.helpers.rows import COCO, DIGITS, expand
from tests.helpers.tables import fixed_table

MINE = COCO.model_copy(update={"name": "my <b>birds</b>", "train_images": 900, "val_images": 100, "classes": 3})


@pytest.fixture
def table() -> Table:
    return fixed_table("dist/cifar100")


@pytest.fixture
def own(table: Table) -> list[Row]:
    return expand(table, "full", (0,), lambda *_: 61.25, data=MINE)


def printed(table: Table, rows: list[Row], out: Path | None = None) -> str:
    console = Console(file=io.StringIO(), width=150)
    return print_tables([table], rows, out=out, console=console)


def test_own_rows_beside_embedded_ones_are_a_table_of_their_own(table: Table, own: list[Row], tmp_path: Path) -> None:
    embedded = expand(table, "mini", (0,), lambda *_: 40.5)
    text = printed(table, [*embedded, *own], tmp_path)
    paper, mine = text.split("my <b>birds</b>/dist/cifar100: own data", 1)
    assert "40.50" in paper and "61.25" not in paper
    assert "61.25" in mine and "40.50" not in mine
    assert "reported" not in mine.replace("No number is reported", "").replace("No paper reports", "").lower()
    assert "900 train" in mine and "3 classes" in mine
    names = {path.name for path in tmp_path.iterdir()}
    assert {"dist-cifar100.csv", "my-b-birds-b-dist-cifar100.csv"} <= names
    frame = pd.read_csv(tmp_path / "my-b-birds-b-dist-cifar100.csv")
    assert set(frame.verdict) == {"measured"} and frame.reported.isna().all()
    assert "<b>" not in (tmp_path / "my-b-birds-b-dist-cifar100.md").read_text()


def test_own_rows_alone_leave_no_empty_table_of_the_paper(table: Table, own: list[Row]) -> None:
    assert [each.title for each, *_ in with_results(table, own, None)] == ["own data, in the recipes of dist/cifar100"]
    assert [each.name for each, *_ in with_results(table, [], None)] == ["dist/cifar100"]


def test_own_rows_at_mini_scale_are_measured_not_compared(table: Table) -> None:
    mine = DIGITS.model_copy(update={"name": "mine"})
    [(_, scale, cells)] = with_results(table, expand(table, "mini", (0,), lambda *_: 30.0, data=mine), None)
    assert scale == "mini"
    assert {cell.verdict.word for cell in cells if cell.rows} == {"measured"}


def test_rows_of_another_shipped_table_are_no_own_data(table: Table) -> None:
    other = COCO.model_copy(update={"name": "imagenet"})
    rows = expand(table, "full", (0,), lambda *_: 30.0, data=other)
    assert [each.name for each, *_ in with_results(table, rows, None)] == ["dist/cifar100"]


def test_the_tables_own_data_set_needs_no_other_table(table: Table) -> None:
    assert for_data(table, COCO.model_copy(update={"name": table.dataset.full})) is table


def test_own_data_is_drawn_in_files_of_its_own(table: Table, own: list[Row], tmp_path: Path) -> None:
    files = draw_all([table], own, tmp_path).files
    assert files and all(file.name.startswith("my-b-birds-b-dist-cifar100-") for file in files)


def test_results_on_a_data_set_are_its_own_and_those_alone(table: Table, own: list[Row]) -> None:
    embedded = expand(table, "mini", (0,), lambda *_: 40.5)
    changed = MINE.model_copy(update={"fingerprint": "beef"})
    other = expand(table, "full", (1,), lambda *_: 12.5, data=changed)
    tables, rows = results_on(Path("birds"), table.task, MINE, [table], [*embedded, *own, *other], None)
    assert [each.name for each in tables] == ["my <b>birds</b>/dist/cifar100"] and rows == own
    text = printed(tables[0], rows)
    assert "61.25" in text and "40.50" not in text and "12.50" not in text


def test_data_without_a_result_has_the_command_that_makes_one(table: Table, own: list[Row]) -> None:
    changed = MINE.model_copy(update={"fingerprint": "beef"})
    with pytest.raises(SpecError) as error:
        results_on(Path("my birds"), table.task, changed, [table], own, "mini")
    assert "no result on my <b>birds</b> (900 + 100 images, beef)" in str(error.value)
    assert f"{len(own)} rows of this name are of other content" in str(error.value)
    assert "kdbench run dist/cifar100 --data 'my birds' --scale mini" in str(error.value)


def test_data_of_another_task_is_refused(table: Table) -> None:
    with pytest.raises(SpecError, match="--data birds is for detection, and these tables are not: dist/cifar100"):
        results_on(Path("birds"), "detection", MINE, [table], [], None)


def test_tables_that_only_repeat_another_are_left_out(table: Table, own: list[Row]) -> None:
    fewer = table.model_copy(update={"name": "a/fewer", "methods": table.methods[:2]})
    for repeats, names in ((True, ["a/fewer", "dist/cifar100"]), (False, ["dist/cifar100"])):
        tables, _ = results_on(Path("birds"), table.task, MINE, [fewer, table], own, None, repeats)
        assert [each.name.removeprefix(f"{MINE.name}/") for each in tables] == names
