"""The layout of papers: which numbers are in which cell, what is marked, and what the files hold."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from kdbench.records.row import Row
from kdbench.report.cells import collect
from kdbench.report.paper import MINI, PaperView, paper_view
from kdbench.report.paper_latex import latex
from kdbench.report.paper_text import csv_frame, markdown, parse_layout
from kdbench.report.terminal import print_tables
from kdbench.spec.scale import Scale
from kdbench.spec.table import MethodEntry, Pair, Table
from tests.helpers.rows import COCO, expand, make_row
from tests.helpers.tables import cifar_table, fixed_table

SCORES = {"none": (71.0, 72.0), "kd": (73.0, 73.5), "dist": (74.0, 74.5), "dist:tau=2": (74.25, 74.25)}
PAIRS = (Pair(teacher="resnet56", student="resnet20"), Pair(teacher="resnet110", student="resnet32"))
CIFAR = COCO.model_copy(update={"name": "cifar100", "train_images": 50_000, "val_images": 10_000, "classes": 100})
SPECIAL = r"""a_b%c&d#e~f^g$h{i}j\k<l>m|n"o`p->q±r--s 鸟 é"""


def entries() -> list[MethodEntry]:
    variant = MethodEntry(method="dist", options={"tau": 2.0}, label="dist:tau=2", added=True)
    return [*(MethodEntry(method=name) for name in ("none", "kd", "dist")), variant]


@pytest.fixture
def table() -> Table:
    return cifar_table(*entries(), pairs=PAIRS)


def rows_of(table: Table, pair: int = 0, **changes: object) -> list[Row]:
    return [
        make_row(table, table.pairs[pair], entry, "full", seed, score, data=CIFAR, teacher_value=77.0)
        for entry in table.methods
        for seed, score in enumerate(SCORES[entry.display_name])
    ]


def view_of(table: Table, rows: list[Row], scale: Scale = "full") -> PaperView:
    return paper_view(table, collect(table, rows, scale), scale)


def printed(table: Table, rows: list[Row], out: Path | None = None, width: int = 80, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    return print_tables([table], rows, out=out, console=console, layout="paper", **options)  # type: ignore[arg-type]


def record(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_teachers_and_students_alone_come_first_and_variants_are_rows(table: Table) -> None:
    view = view_of(table, rows_of(table))
    assert [row.label for row in view.rows] == ["teacher", "student alone", "kd", "dist", "dist:tau=2"]
    assert view.references == 2
    assert [column.name for column in view.columns] == ["resnet56 -> resnet20"]
    assert view.remarks == ("left out: 1 pair without a run",)


def test_numbers_that_are_printed_alike_are_both_the_best(table: Table) -> None:
    text = printed(table, rows_of(table))
    assert re.fullmatch(r"dist +74\.25 ± 0\.35\* *", record(text, "dist  "))
    assert re.fullmatch(r"dist:tau=2 +74\.25 ± 0\.00\* *", record(text, "dist:tau=2"))
    assert re.fullmatch(r"teacher +77\.00 *", [line for line in text.splitlines() if line.startswith("teacher")][1])
    assert re.fullmatch(r"student alone +71\.50 ± 0\.71 *", record(text, "student alone"))
    assert text.count("*") == 2 + 1  # and the legend


def test_a_single_measured_student_is_not_the_best_of_anything(table: Table) -> None:
    text = markdown(view_of(table, rows_of(table)[:2]))
    assert "**" not in text and "| student alone | 71.50 ± 0.71 |" in text


def test_one_seed_has_no_sd_and_the_caption_says_so(table: Table) -> None:
    view = view_of(table, [row for row in rows_of(table) if row.run.seed == 0])
    assert view.caption == "A table of a test (data: cifar100). Top-1 accuracy in percent, last epoch, one seed (n=1)."
    assert "| dist | 74.00 |" in markdown(view) and "±" not in markdown(view)


def test_cells_without_a_number_are_dashes_and_failures_are_noted(table: Table) -> None:
    rows = rows_of(table) + rows_of(table, 1)[:4]
    broken = make_row(
        table, PAIRS[1], table.methods[2], "full", status="diverged", reason="loss is nan at step 3", data=CIFAR
    )
    partly = make_row(table, PAIRS[0], table.methods[1], "full", 2, status="failed", reason="disk full", data=CIFAR)
    text = markdown(view_of(table, [*rows, broken, partly]))
    assert "| dist | **74.25 ± 0.35** | - |" in text and "| dist:tau=2 | **74.25 ± 0.00** | - |" in text
    assert "- dist (resnet110 -&gt; resnet32): diverged (loss is nan at step 3)" in text.replace("->", "-&gt;")
    assert "kd (resnet56 -> resnet20): seed 2 failed, not in the mean" in text


def test_reported_numbers_are_beside_measured_ones_at_full_scale_alone() -> None:
    table = fixed_table("dist/cifar100")
    full = markdown(view_of(table, expand(table, "full", (0, 1), lambda *_: 70.0, data=CIFAR)))
    assert "(71.16" not in full  # CRD's, which this table does not list
    assert "In parentheses: reported by dist." in full
    assert re.search(r"\| dist \|( \*\*70\.00 ± 0\.00\*\* \(\d\d\.\d\d†?\) \|)+", full)
    mini = view_of(table, expand(table, "mini", (0, 1), lambda *_: 40.0), "mini")
    for text in (markdown(mini), latex(mini), printed(table, expand(table, "mini", (0,), lambda *_: 40.0))):
        flat = " ".join(text.split())
        assert MINI in flat and "reported" not in flat and "(7" not in flat


def test_numbers_that_are_not_comparable_have_a_dagger_and_the_reason() -> None:
    table = fixed_table("dist/cifar100")
    other = CIFAR.model_copy(update={"train_images": 900})
    rows = expand(table, "full", (0,), lambda *_: 70.0, data=other, teacher_value=72.34)
    view = view_of(table, rows)
    cells = [entry for row in view.rows[1:] for entry in row.entries if entry and entry.measured]
    assert cells and not any(entry.comparable for entry in cells if entry.reported)
    assert any(note.startswith("†: ") and "900 train images, not 50000" in note for note in view.notes)
    assert "†)" in markdown(view) and r"$^\dagger$" in latex(view)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_terminals_of_any_width_show_every_number_once(width: int) -> None:
    pairs = tuple(Pair(teacher=f"resnet{56 + 54 * (i % 2)}", student="resnet20", note=str(i)) for i in range(12))
    table = cifar_table("none", "kd", pairs=pairs)
    rows = expand(table, "full", (0, 1), lambda pair, *_: 60.0 + int(pair.note) % 2, data=CIFAR)
    text = printed(table, rows, width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width and "…" not in text
    kd = [line for line in text.splitlines() if line.startswith("kd")]
    assert sum(line.count("±") for line in kd) == 12


def test_csv_is_unrounded_with_a_line_a_method(table: Table, tmp_path: Path) -> None:
    text = printed(table, rows_of(table), tmp_path)
    assert "test-cifar100.paper.tex" in text.replace("\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {f"test-cifar100.paper.{end}" for end in ("csv", "md", "tex")}
    frame = pd.read_csv(tmp_path / "test-cifar100.paper.csv").set_index("method")
    name = "resnet56 -> resnet20"
    assert list(frame.columns) == [f"{name}: measured", f"{name}: sd", f"{name}: n"]
    assert frame.loc["dist"].tolist() == [74.25, pytest.approx(0.35355339), 2]
    assert list(frame.index)[:2] == ["teacher", "student alone"]


def test_labels_are_literal_in_every_form() -> None:
    table = cifar_table("none", MethodEntry(method="kd", label=f"={SPECIAL}"))
    rows = expand(table, "full", (0, 1), lambda *_: 70.0, data=CIFAR)
    view = view_of(table, rows)
    assert csv_frame(view).method[2] == f"'={SPECIAL}"
    line = record(markdown(view), "| =a")
    assert "&lt;l>m\\|n" in line and line.count("|") - line.count("\\|") == 3


def test_without_any_number_nothing_is_written(table: Table, tmp_path: Path) -> None:
    text = printed(table, [], tmp_path)
    assert "No run is finished at scale full, and no reported number is shown: nothing to write." in " ".join(
        text.split()
    )
    assert not list(tmp_path.iterdir())


def test_stale_rows_are_a_remark(table: Table) -> None:
    rows = [row.model_copy(update={"code": "0" * 16}) for row in rows_of(table)]
    assert view_of(table, rows).remarks[1].startswith("stale: code or teacher has changed since the runs of ")


def test_another_epoch_is_shown_and_not_compared() -> None:
    table = fixed_table("dist/cifar100")
    assert table.selection == "best"
    pair, entry = table.pairs[0], next(entry for entry in table.methods if entry.method == "dist")
    [reported] = {x.reported_value for x in collect(table, [], "full") if x.pair is pair and x.entry is entry}
    teacher = collect(table, [], "full")[0].teacher_reported
    assert reported and teacher
    row = make_row(
        table, pair, entry, "full", 0, reported - 0.4, data=CIFAR, teacher_value=teacher, best=reported + 0.1
    )
    for select, value, words in (("last", -0.4, "last epoch"), ("mean_last10", -0.9, "mean of the last ten epochs")):
        cell = next(x for x in collect(table, [row], "full", select=select) if x.rows)  # type: ignore[arg-type]
        assert cell.measured and cell.measured.mean == pytest.approx(reported + value)
        assert cell.verdict.text == f"not comparable ({words}, and the paper reports the best epoch)"
        assert cell.verdict.difference is None
        assert not any(note.startswith("compared at") for note in cell.notes)
    plain = next(x for x in collect(table, [row], "full") if x.rows)
    assert (
        plain.verdict.word == "reproduced" and plain.measured and plain.measured.mean == pytest.approx(reported + 0.1)
    )
    text = " ".join(printed(table, [row], select="last").split())
    assert f"percent, last epoch, one seed (n=1). In parentheses: reported by {table.paper}." in text
    assert f"{reported - 0.4:.2f} ({reported:.2f}†)" in text
    assert "last epoch, and the paper reports the best epoch (1 cell)" in text


def test_the_reported_epoch_by_name_changes_nothing() -> None:
    table = fixed_table("dist/cifar100")
    rows = expand(table, "full", (0, 1), lambda *_: 70.0, data=CIFAR)
    assert collect(table, rows, "full", select=table.selection) == collect(table, rows, "full")


def test_layouts_have_names() -> None:
    assert [parse_layout(name) for name in ("evidence", "paper")] == ["evidence", "paper"]
    with pytest.raises(ValueError, match="unknown layout: 'papre'. Did you mean 'paper'"):
        parse_layout("papre")
