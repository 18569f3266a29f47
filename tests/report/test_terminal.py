"""Tables in the terminal and as files: what is printed where, and what is never printed together."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from kdbench.errors import StoreError
from kdbench.records.row import Row
from kdbench.records.store import InvalidRow
from kdbench.report import files
from kdbench.report.blocks import blocks
from kdbench.report.cells import collect
from kdbench.report.files import csv_frame
from kdbench.report.own_data import collect_at
from kdbench.report.table_view import Footnotes, table_view
from kdbench.report.terminal import print_tables, split_columns
from kdbench.spec.reported import load_reported
from kdbench.spec.scale import Scale
from kdbench.spec.table import Table
from tests.helpers.rows import expand, full_truth, make_row, mini_truth
from tests.helpers.tables import fixed_table

TABLES = [fixed_table("akd/coco"), fixed_table("dist/coco")]


@pytest.fixture(scope="module")
def akd() -> Table:
    return fixed_table("akd/coco")


pytestmark = pytest.mark.usefixtures("without_detectron2")


@pytest.fixture(scope="module")
def mini() -> list[Row]:
    rows = [row for table in TABLES for row in expand(table, "mini", (0,), mini_truth)]
    return list({row.id: row for row in rows}.values())


@pytest.fixture(scope="module")
def full() -> list[Row]:
    return [row for table in TABLES for row in expand(table, "full", (0, 1, 2), full_truth)]


def text_of(rows: list[Row], names: Sequence[str | Table], width: int = 150, scale: Scale | None = None) -> str:
    return print_tables(
        names, rows, (), scale, out=None, console=Console(file=io.StringIO(), width=width, highlight=False)
    )


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_mini_compares_nothing_with_a_reported_number_and_says_so(mini: list[Row]) -> None:
    text = text_of(mini, [fixed_table("akd/coco")])
    assert "scale: mini; data: digits (2000 train, 500 val images, 10 classes); seeds: 0; machine: 2-core x86" in text
    assert text.count("not comparable (mini)") == 10 + 3 + 4
    flat = " ".join(text.split())
    assert "9 of the 12 reported numbers of distilled students were run, with the small networks named above." in flat
    assert "faster_rcnn_r50_fpn: MasKD's weights for its Cascade teacher are not on record here" in flat
    assert "No cell is compared with a reported number" in flat
    assert "One seed has no spread (n=1)" in flat
    assert "the student alone is 10.0 AP below its teacher (24.0 and 34.0)" in flat
    assert "tolerance" not in text
    assert "reproduced" not in text
    pairs = "retinanet_r101_fpn -> retinanet_r50_fpn, retinanet_x101_fpn -> retinanet_r50_fpn"
    assert f"retinanet_mini_teacher -> retinanet_mini_student is a proxy for {pairs}." in flat


def test_mini_shows_no_reported_number(mini: list[Row]) -> None:
    table = fixed_table("akd/coco")
    text = text_of(mini, [table])
    assert "reported  " not in text and "teacher: reported" not in text
    numbers = {f"{row.value:.1f}" for source in table.reported for row in load_reported(source.file) if row.value}
    assert numbers and not numbers & set(text.split())
    frame = csv_frame(table, collect(table, mini, "mini"))
    empty = ["reported", "reported_std", "teacher_reported", "source", "reported_by", "reported_note"]
    assert frame[empty].isna().all(axis=None)


def test_mini_leaves_out_methods_without_a_run(akd: Table, mini: list[Row]) -> None:
    kept = [row for row in mini if row.run.method in ("none", "cwd") and row.run.student == "retinanet_mini_student"]
    text = text_of(kept, [fixed_table("akd/coco")])
    assert "not run " not in text and "fcos_mini_student" not in text
    assert "cwd" in text and "mimic  " not in text
    assert "Without a result: " in text


def test_gains_whose_interval_excludes_zero_are_counted() -> None:
    table = fixed_table("dist/coco")
    scores = {"none": (20.0, 21.0, 22.0), "dist": (25.0, 26.5, 27.0), "dist+mimic": (20.0, 25.0, 22.0)}
    rows = [
        make_row(table, table.pairs[0], entry, "mini", seed, score)
        for entry in table.methods
        for seed, score in enumerate(scores[entry.method])
    ]
    text = text_of(rows, [table])
    assert "+5.17 ± 0.72 (3)" in line_of(text, "dist  ")
    assert "+1.33 ± 5.74 (3)" in line_of(text, "dist+mimic ")
    assert "95 % intervals of gains over `none`: 1 of 2 above zero, 0 below." in text


def test_pairs_that_share_small_networks_are_printed_once_for_all_of_them(mini: list[Row]) -> None:
    lines = text_of(mini, [fixed_table("akd/coco")]).splitlines()
    assert lines.count("retinanet_mini_teacher -> retinanet_mini_student") == 1
    at = lines.index("retinanet_mini_teacher -> retinanet_mini_student")
    assert lines[at + 1].strip() == "proxy for retinanet_r101_fpn -> retinanet_r50_fpn"
    assert lines[at + 2].strip().startswith("proxy for retinanet_x101_fpn -> retinanet_r50_fpn")
    assert lines[at + 3].strip() == "teacher: 34.00"


def test_methods_of_pairs_that_share_networks_are_in_one_block(akd: Table, mini: list[Row]) -> None:
    two_stage = next(x for x in blocks(collect(akd, mini, "mini")) if x.student == "faster_rcnn_mini_student")
    assert [line.label for line in two_stage.lines] == ["none", "maskd", "akd+maskd", "akd+masked_generative"]
    assert [len(line.cells) for line in two_stage.lines] == [2, 1, 1, 1]


def test_full_puts_every_reported_number_beside_the_measured_one(full: list[Row]) -> None:
    text = text_of(full, [fixed_table("dist/coco")])  # loaded tables serve as well as names
    record = line_of(text, "dist  ").split()
    assert record[:6] == ["dist", "39.8", "[2]", "40.00", "±", "0.15"]
    assert "+0.20 / 0.54" in text
    assert "reproduced" in record
    assert "Of 6 cells with a reported number: 3 reproduced, 3 skipped." in text
    assert "[2] teacher is the 1x checkpoint" in text


def test_long_reasons_are_footnotes_and_never_widen_a_column(full: list[Row]) -> None:
    text = text_of(full, [fixed_table("akd/coco")], width=160)
    assert "skipped [" in text
    reason = "detectron2 is not installed"
    assert text.count(reason) == 1
    assert max(len(line) for line in text.splitlines()) <= 160


@pytest.mark.parametrize("width", [100, 120, 140, 160])
def test_no_page_from_100_columns_on_loses_anything(full: list[Row], mini: list[Row], width: int) -> None:
    for rows in (full, mini):
        text = text_of(rows, TABLES, width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
        assert "…" not in text
        for heading in ("verdict", "gain over", "GFLOPs", "images", "step", "params", "time"):
            assert heading in text


@pytest.fixture(scope="module")
def paths() -> Table:
    return fixed_table("ad/cifar100")


@pytest.fixture(scope="module")
def taught(paths: Table) -> list[Row]:
    """Two seeds at mini scale, whose students agree with their teacher and whose `ad adaptive_at_st` has learned."""
    return [agreeing(row) for row in expand(paths, "mini", (0, 1), mini_truth)]


def agreeing(row: Row) -> Row:
    if row.teacher is None or row.metrics is None:
        return row
    last = row.metrics.last | {"agreement": 80.0 + row.run.seed, "agreement5": 99.0}
    adaptive = row.run.options.get("config") == "adaptive_at_st"
    learned = {"attention": 936.4 + 10 * row.run.seed, "soft_target": 0.125} if adaptive else {}
    return row.model_copy(update={"metrics": row.metrics.model_copy(update={"last": last}), "learned": learned})


def test_agreement_with_the_teacher_is_printed_where_rows_have_it(paths: Table, taught: list[Row]) -> None:
    text = text_of(taught, [paths])
    assert "with teacher" in text and "Agreement: percent of the validation images" in text
    assert "80.50 ± 0.71 (2)" in line_of(text, "kd  ")
    assert "80.50" not in line_of(text, "none  ")
    older = text_of(expand(paths, "mini", (0, 1), mini_truth), [paths])
    assert "with teacher" not in older and "Agreement" not in older and "learned" not in older


def test_what_a_method_has_learned_is_a_footnote_on_it(paths: Table, taught: list[Row], tmp_path: Path) -> None:
    note = "learned: attention 941.4 ± 7.07, soft_target 0.125 ± 0 (2)"
    one = table_view(paths, collect(paths, taught, "mini"), "mini")
    marked = [record["method"] for part in one.blocks for record in part.records if "[" in record["method"]]
    assert marked == ["ad adaptive_at_st [1]"] and one.footnotes == (note,)
    assert f"[1] {note}" in text_of(taught, [paths]) and f"- [1] {note}" in files.markdown(one)
    first = [row for row in taught if row.run.seed == 0]
    assert "learned: attention 936.4, soft_target 0.125 (n=1)" in text_of(first, [paths])
    frame = pd.read_csv(files.write(one, tmp_path)[0]).set_index("label")
    assert json.loads(frame.learned["ad adaptive_at_st"]) == {"attention": pytest.approx(941.4), "soft_target": 0.125}
    assert (frame.agreement["kd"], frame.agreement5["kd"]) == (80.5, 99.0)
    assert frame.loc["none", ["agreement", "agreement5", "learned"]].isna().all()


@pytest.mark.parametrize("width", [80, 100, 120, 140, 160])
def test_a_page_that_is_too_narrow_for_all_gains_loses_none(width: int, paths: Table, taught: list[Row]) -> None:
    text = text_of(taught, [paths], width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    assert {line.split()[0] for line in text.splitlines() if "80.50 ± 0.71 (2)" in line} == {"kd", "ad"}
    assert text.count("its base") == 1
    assert "Bases: ad hand_tuned, ad adaptive_at_st over ad equal." in " ".join(text.split())


def test_costs_take_a_second_grid_on_a_narrow_page() -> None:
    widths = {"method": 20, "reported": 8, "verdict": 12, "time": 5, "params": 6}
    assert split_columns(widths, 80) == [["method", "reported", "verdict", "time", "params"]]
    assert split_columns(widths, 50) == [["method", "reported", "verdict"], ["method", "time", "params"]]
    assert split_columns(widths, 26) == [["method", name] for name in ("reported", "verdict")] + [
        ["method", "time"]
    ] + [["method", "params"]]


def test_without_rows_the_reported_numbers_are_printed_and_the_command_is_named() -> None:
    text = text_of([], [fixed_table("dist/coco")])
    assert "no run is finished: `kdbench run dist/coco --scale full` runs it" in text
    line = line_of(text, "dist+mimic")
    assert line.split()[:2] == ["dist+mimic", "40.1"] and "not run" in line
    mini = text_of([], [fixed_table("dist/coco")], scale="mini")
    assert "40.1" not in mini and "No run is finished, and reported numbers are not shown at mini scale." in mini


def test_full_is_shown_when_there_is_any_full_row_of_the_table(full: list[Row], mini: list[Row]) -> None:
    dist, akd = fixed_table("dist/coco"), fixed_table("akd/coco")
    own = [row for row in full if row.run.method.startswith("dist")]
    assert collect_at(dist, [*mini, *own], None)[0] == "full"
    assert collect_at(akd, [*mini, *own], None)[0] == "mini"
    assert collect_at(dist, [*mini, *own], "mini")[0] == "mini"


def test_failures_keep_their_place_and_their_reason(akd: Table, mini: list[Row]) -> None:
    pair = akd.pairs[0]
    entry = next(entry for entry in akd.entries(pair) if entry.display_name == "cwd")
    broken = make_row(akd, pair, entry, "mini", status="diverged", reason="loss cwd is nan at step 12")
    others = [row for row in mini if row.run.method != "cwd"]
    text = text_of([*others, broken], [akd])
    assert "diverged [" in line_of(text, "cwd")
    assert "loss cwd is nan at step 12" in text


def test_several_machines_are_told_apart(akd: Table) -> None:
    pair = akd.pairs[0]
    none, mimic = akd.entries(pair)[:2]
    rows = [make_row(akd, pair, none, "mini"), make_row(akd, pair, mimic, "mini", machine="8-core arm")]
    text = text_of(rows, [akd])
    assert "machines: 2-core x86, 8-core arm" in text
    assert "comparable within one machine only" in text
    assert "×" not in line_of(text, "mimic")  # no cost over a `none` of another machine


def test_sd_over_seeds_is_pooled_and_printed(akd: Table) -> None:
    text = text_of(expand(akd, "mini", (0, 1, 2), mini_truth), [akd])
    assert "Seed-to-seed sd 0." in text
    assert "pooled over" in text
    assert "One seed has no spread" not in text


def test_invalid_rows_are_listed_at_the_end() -> None:
    console = Console(file=io.StringIO(), width=150)
    invalid_row = InvalidRow(Path("results/runs/abc/row.json"), "status: Input should be 'done'")
    text = print_tables(["dist/coco"], [], [invalid_row], out=None, console=console)
    assert text.rstrip().endswith("results/runs/abc/row.json: status: Input should be 'done'")


def test_output_that_is_no_terminal_is_plain(full: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    print_tables(["dist/coco"], full, out=None)
    printed = capsys.readouterr().out
    assert "reproduced" in printed
    assert "\x1b" not in printed


def test_csv_holds_raw_numbers_one_row_a_cell(akd: Table, full: list[Row], tmp_path: Path) -> None:
    cells = collect(akd, full, "full")
    paths = files.write(table_view(akd, cells, "full"), tmp_path)
    assert [path.name for path in paths] == ["akd-coco.csv", "akd-coco.md", "akd-coco.tex"]
    frame = pd.read_csv(paths[0])
    assert len(frame) == len(cells)
    row = frame[(frame.teacher == "retinanet_r101_fpn") & (frame.label == "akd+maskd")].iloc[0]
    cell = next(x for x in cells if x.label == "akd+maskd")
    assert cell.measured and cell.gain and cell.cost
    assert row.reported == 40.3
    assert row.measured == pytest.approx(cell.measured.mean, rel=1e-12)
    assert (row.n, row.seeds, row.verdict) == (3, "0 1 2", "reproduced")
    assert row.tolerance == pytest.approx(cell.verdict.tolerance)
    assert (row.flops, row.params) == (cell.cost.flops, cell.cost.params)
    assert row.source.startswith("https://github.com/Gumpest/AvatarKD")
    assert all(name == name.lower() and " " not in name for name in frame.columns)


def test_csv_at_mini_has_no_difference(akd: Table, mini: list[Row]) -> None:
    frame = files.csv_frame(akd, collect(akd, mini, "mini"))
    assert frame["measured"].notna().any()
    assert frame["difference"].isna().all()
    assert frame["tolerance"].isna().all()


def test_markdown_is_one_table_with_footnotes(akd: Table, full: list[Row]) -> None:
    text = files.markdown(table_view(akd, collect(akd, full, "full"), "full"))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 24
    assert len({line.count("|") for line in table}) == 1
    assert "| retinanet_r101_fpn -> retinanet_r50_fpn " in text
    assert "- [1] " in text


def test_latex_is_balanced_and_escaped(akd: Table, full: list[Row]) -> None:
    text = files.latex(table_view(akd, collect(akd, full, "full"), "full"))
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {13}
    assert r"retinanet\_r101\_fpn $\to$ retinanet\_r50\_fpn" in body
    printed = re.sub(r"(?m)^%.*|\$\\\w+\$|tab:", "", text)
    assert re.search(r"(?<!\\)[#$%_^~]", printed) is None
    assert "`kdbench table --layout paper` writes a table of one text width" in text.splitlines()[0]


def test_stale_rows_are_marked(akd: Table, mini: list[Row]) -> None:
    method = next(row.run.method for row in mini if row.run.teacher)
    note = f"stale: the code of {method} has changed since 1 of 1 row; `kdbench run` does them again"
    assert "stale:" not in text_of(mini, TABLES, width=400)
    changed = [row.model_copy(update={"code": "0" * 16}) if row.run.method == method else row for row in mini]
    text = text_of(changed, TABLES, width=400)
    mark = re.search(rf"(\[\d+\]) {re.escape(note)}", text)
    assert mark is not None
    marked = [line for line in text.splitlines() if mark[1] in line and note not in line]
    assert marked and all(re.search(rf"\b{method}\b", line) for line in marked)


def test_rows_of_a_teacher_that_was_trained_again_are_marked(akd: Table, mini: list[Row]) -> None:
    students = [row for row in mini if row.run.teacher]
    teachers = {row.run.teacher.id: row.run.teacher for row in students if row.run.teacher}
    student = students[0].student
    assert student is not None
    for sha256, expected in ((student.sha256, False), ("ef" * 32, True)):
        weights = {"student": student.model_copy(update={"sha256": sha256}), "teacher": None}
        rows = [students[0].model_copy(update={"run": run, "id": run.id} | weights) for run in teachers.values()]
        text = text_of([*mini, *rows], TABLES, width=400)
        note = "stale: the teacher was trained again since 1 of 1 row; `kdbench run` does them again"
        assert (note in text) == expected


def test_footnotes_are_numbered_once_in_order() -> None:
    notes = Footnotes()
    assert notes.mark(["b"]) == " [1]"
    assert notes.mark(["a", "b"]) == " [1,2]"
    assert notes.mark([]) == ""
    assert notes.texts == ["b", "a"]


def test_a_folder_that_cannot_be_written_is_named(akd: Table, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        print_tables(["akd/coco"], [], out=tmp_path / "file" / "tables", console=Console(file=io.StringIO()))
