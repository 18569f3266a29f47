"""Cost of inference in tables: of one setup, shared by the runs of a network, and said where it is from."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from kdbench.records.inference import FILE, Inference, Latency, Network, Quantized, Setup, add_inference, read_inference
from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.report.cells import Cell, collect
from kdbench.report.evidence import NOTHING
from kdbench.report.files import csv_frame
from kdbench.report.html.details import Sources, details
from kdbench.report.html.lines import Line, all_lines
from kdbench.report.html.lines import with_inference as lines_with_inference
from kdbench.report.html.packed import packed
from kdbench.report.inference import Measured, notes, read_measured, with_inference
from kdbench.report.runs import print_run
from kdbench.report.table_view import table_view
from kdbench.report.terminal import print_tables
from kdbench.spec.table import Table
from tests.helpers.rows import expand, mini_truth
from tests.helpers.tables import fixed_table

LAPTOP, SERVER = Setup("a laptop x4", 4), Setup("a server x64", 64)

pytestmark = pytest.mark.usefixtures("without_detectron2")


@pytest.fixture(scope="module")
def table() -> Table:
    return fixed_table("dist/coco")


@pytest.fixture(scope="module")
def rows(table: Table) -> list[Row]:
    return expand(table, "mini", (0, 1), mini_truth)


def figure(row: Row, setup: Setup, median: float, program: str = "eager", day: int = 1) -> Latency:
    assert row.cost
    return Latency(
        program=program,
        batch=1,
        size=row.cost.image_size,
        median_ms=median,
        p95_ms=2 * median,
        runs=9,
        peak_memory=2**21,
        machine=setup.machine,
        threads=setup.threads,
        libraries={"torch": "9.9"},
        measured=f"2026-01-0{day}T00:00:00+00:00",
    )


def of(row: Row, *latency: Latency, int8: float | None = None) -> tuple[Row, Inference]:
    assert row.student
    quantized = None if int8 is None else Quantized(metric="ap", score=int8, threads=4, machine=LAPTOP.machine)
    return row, Inference(
        run=row.id, student=row.student.sha256, latency=latency, bytes={"torch": 2**20}, int8=quantized
    )


def cells_with(table: Table, rows: list[Row], *found: tuple[Row, Inference]) -> list[Cell]:
    return with_inference(collect(table, rows, "mini"), Measured.of(found))


def text(table: Table, rows: list[Row], *found: tuple[Row, Inference]) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    return print_tables([table], rows, (), "mini", out=None, console=console, measured=Measured.of(found))


def test_all_runs_of_a_network_show_its_figures(table: Table, rows: list[Row]) -> None:
    first = rows[0]
    cells = cells_with(table, rows, of(first, figure(first, LAPTOP, 3.0)))
    same = [cell for cell in cells if cell.rows and Network.of(cell.rows[0]) == Network.of(first)]
    assert len(same) > 2 and all(cell.inference and cell.inference.latency["eager", 1].median_ms == 3 for cell in same)
    assert all(cell.inference is None for cell in cells if cell not in same)
    view = table_view(table, cells, "mini")
    assert "eager_1" in view.columns and "onnx_1" not in view.columns and "int8" not in view.columns
    printed = text(table, rows, of(first, figure(first, LAPTOP, 3.0)))
    assert "3 / 6" in printed and "a laptop x4 with 4 CPU threads (torch 9.9; 2026-01-01)" in " ".join(printed.split())
    assert "latency PyTorch" not in text(table, rows)


def test_figures_of_two_machines_are_never_in_one_table(table: Table, rows: list[Row]) -> None:
    networks = {Network.of(row): row for row in rows}
    one, two = list(networks.values())[:2]
    found = [of(one, figure(one, LAPTOP, 3.0), figure(one, SERVER, 1.0, day=2)), of(two, figure(two, LAPTOP, 5.0))]
    cells = cells_with(table, rows, *found)
    shown = {each.setup for cell in cells if cell.inference for each in cell.inference.latency.values()}
    assert shown == {LAPTOP}  # that more networks were measured with
    assert any("not shown" in line and "a server x64 with 64 CPU threads" in line for line in notes(cells))
    later = [of(one, figure(one, LAPTOP, 3.0), figure(one, SERVER, 1.0, day=2))]
    cells = cells_with(table, rows, *later)
    assert {cell.inference.setup for cell in cells if cell.inference} == {SERVER}  # of as many, the latest


def test_figures_of_other_sizes_of_images_are_not_in_tables(table: Table, rows: list[Row]) -> None:
    other = figure(rows[0], LAPTOP, 3.0).model_copy(update={"size": (7, 7)})
    cells = cells_with(table, rows, of(rows[0], other))
    assert all(not cell.inference.latency for cell in cells if cell.inference)
    assert "latency" not in text(table, rows, of(rows[0], other)).lower().split("how to read")[0]


def test_int8_scores_are_of_their_runs_alone(table: Table, rows: list[Row]) -> None:
    kd = [row for row in rows if row.run.method == "dist" and Network.of(row) == Network.of(rows[0])]
    cells = cells_with(table, rows, of(kd[0], int8=20.0), of(kd[1], int8=22.0))
    samples = {cell.label: cell.inference.int8 for cell in cells if cell.inference and cell.inference.int8}
    assert set(samples) == {"dist"} and samples["dist"].mean == 21 and samples["dist"].n == 2
    assert "21.00 ± 1.41 (2)" in text(table, rows, of(kd[0], int8=20.0), of(kd[1], int8=22.0))


def test_files_and_the_page_have_the_figures(table: Table, rows: list[Row]) -> None:
    found = of(rows[0], figure(rows[0], LAPTOP, 3.0, "onnx"), int8=20.0)
    frame = csv_frame(table, cells_with(table, rows, found))
    assert frame["onnx_batch1_median_ms"].dropna().unique().tolist() == [3.0]
    assert frame["latency_machine"].dropna().unique().tolist() == ["a laptop x4"]
    lines = lines_with_inference(all_lines([table], rows, NOTHING), Measured.of([found]))
    columns = {column["key"]: column for column in packed(lines)["columns"]}
    assert (
        columns["onnx_1_p95_ms"]["parts"] and columns["latency_on"]["parts"] and not columns["eager_1_p95_ms"]["parts"]
    )
    assert not columns["onnx_1_p95_ms"]["shown"]
    sections = details(_measured(lines), Sources(), Path("unused"))["sections"]
    (facts,) = [section["facts"] for section in sections if section["title"] == "Inference"]
    assert any("ONNX, batch 1" in name and "a laptop x4 with 4 CPU threads" in value for name, value in facts)


def _measured(lines: list[Line]) -> Line:
    return next(line for line in lines if line.cell and line.cell.inference)


def test_a_run_is_shown_with_what_was_measured_of_its_network(rows: list[Row], tmp_path: Path) -> None:
    same = [row for row in rows if Network.of(row) == Network.of(rows[0])][:2]
    for row in same:
        Store(tmp_path).write(row)
    add_inference(tmp_path / same[0].id, same[0], [figure(same[0], LAPTOP, 3.0)], {"torch": 9})
    console = Console(file=io.StringIO(), width=200, record=True)
    print_run(tmp_path, same[1].id, console)
    printed = console.export_text()
    assert "PyTorch, batch 1" in printed and "median 3 ms" in printed and "file, torch: 9 bytes" in printed
    (tmp_path / same[0].id / FILE).write_bytes(b"x")
    measured, invalid = read_measured(tmp_path, same)
    assert not measured.networks and [each.path.name for each in invalid] == [FILE]


def test_a_later_measurement_replaces_an_earlier_one(rows: list[Row], tmp_path: Path) -> None:
    row = rows[0]
    add_inference(tmp_path, row, [figure(row, LAPTOP, 3.0), figure(row, SERVER, 1.0)])
    add_inference(tmp_path, row, [figure(row, LAPTOP, 4.0)])
    add_inference(tmp_path, row, int8=Quantized(metric="ap", score=1.0, threads=1, machine="m"))
    found = read_inference(tmp_path, row)
    assert isinstance(found, Inference) and found.int8 and found.int8.score == 1
    assert [(each.setup, each.median_ms) for each in found.latency] == [(LAPTOP, 4.0), (SERVER, 1.0)]
