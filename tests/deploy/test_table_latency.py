"""Latency of the students of finished runs: each network once in a setup, kept beside its row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.deploy import formats, latency
from kdbench.deploy.saved import SavedStudent
from kdbench.deploy.table_latency import LatencyRequest, measure_tables, runs_of
from kdbench.errors import SpecError
from kdbench.records.inference import FILE, Inference, Latency, read_inference
from kdbench.records.row_file import InvalidRow
from tests.helpers.rows import expand, mini_truth
from tests.helpers.students import Trained, train
from tests.helpers.tables import fixed_table


@pytest.fixture
def student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """A classifier of a machine without ONNX Runtime."""
    torch.set_num_threads(1)
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    return train("classification", "resnet8", tmp_path)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was timed: nothing is, and a forward takes a millisecond an image."""
    done: list[tuple[str, int]] = []

    def measure(
        student: SavedStudent, program: str, file: Path, size: Any, shapes: Sequence[tuple[int, ...]]
    ) -> Latency:
        assert file.is_file() and tuple(shapes[0][2:]) == size
        done.append((program, shapes[0][0]))
        here = latency.setup()
        return Latency(
            program=program,
            batch=shapes[0][0],
            size=size,
            median_ms=float(shapes[0][0]),
            p95_ms=2.0 * shapes[0][0],
            runs=5,
            peak_memory=2**20,
            machine=here.machine,
            threads=here.threads,
            libraries=latency.libraries(program),
            measured="2026-01-02T03:04:05+00:00",
        )

    monkeypatch.setattr(latency, "_measure", measure)
    return done


def kept(student: Trained) -> Inference:
    found = read_inference(student.results / student.row.id, student.row)
    assert isinstance(found, Inference)
    return found


def test_a_network_is_measured_once_in_a_setup(student: Trained, timed: list[tuple[str, int]]) -> None:
    lines: list[str] = []
    request = LatencyRequest(student.results, student.place)
    again = student.row.model_copy(update={"id": "f" * 16, "finished": "2000-01-01T00:00:00+00:00"})
    assert not measure_tables(request, [], [again, student.row], lines.append)  # ONNX Runtime is missing
    assert timed == [("eager", 1), ("eager", 32)]
    assert any(line.startswith("1 network of 2 runs; 1 CPU thread") for line in lines)
    assert any(line.startswith("not measured: ONNX: ") and "pip install" in line for line in lines)
    found = kept(student)
    assert [(each.batch, each.median_ms) for each in found.latency] == [(1, 1.0), (32, 32.0)]
    assert student.row.student
    assert found.bytes == {"torch": (student.results / student.row.student.file).stat().st_size}
    measure_tables(request, [], [student.row], lines.append)
    assert len(timed) == 2 and "resnet8: is measured already" in lines
    torch.set_num_threads(2)
    try:
        measure_tables(request, [], [student.row], lines.append)
    finally:
        torch.set_num_threads(1)
    assert len(timed) == 4 and {each.threads for each in kept(student).latency} == {1, 2}


def test_each_figure_is_logged_before_the_next_is_measured(student: Trained, timed: list[tuple[str, int]]) -> None:
    before: list[int] = []

    def log(line: str) -> None:
        if "95th percentile" in line:
            before.append(len(timed))

    measure_tables(LatencyRequest(student.results, student.place), [], [student.row], log)
    assert before == [1, 2]


def test_a_damaged_file_is_named_and_written_anew(student: Trained, timed: list[tuple[str, int]]) -> None:
    folder, lines = student.results / student.row.id, list[str]()
    (folder / FILE).write_text("{}")
    assert isinstance(read_inference(folder, student.row), InvalidRow)
    measure_tables(LatencyRequest(student.results, student.place), [], [student.row], lines.append)
    assert any("is measured again" in line and "checksum" in line for line in lines)
    assert len(kept(student).latency) == 2


def test_figures_of_another_student_are_not_read(student: Trained, timed: list[tuple[str, int]]) -> None:
    measure_tables(LatencyRequest(student.results, student.place), [], [student.row], lambda _: None)
    assert student.row.student
    other = student.row.model_copy(update={"student": student.row.student.model_copy(update={"sha256": "0" * 64})})
    found = read_inference(student.results / student.row.id, other)
    assert isinstance(found, InvalidRow) and "is not the one" in found.reason


def test_missing_weights_are_named(student: Trained, timed: list[tuple[str, int]]) -> None:
    assert student.row.student
    (student.results / student.row.student.file).unlink()
    lines: list[str] = []
    assert not measure_tables(LatencyRequest(student.results, student.place), [], [student.row], lines.append)
    assert timed == [] and any("has no weights" in line for line in lines)


def test_runs_of_a_table_and_of_a_scale_are_chosen() -> None:
    table, other = fixed_table("akd/coco"), fixed_table("dist/coco")
    rows = expand(table, "mini", (0,), mini_truth)
    chosen = runs_of([table], rows, None)
    assert chosen and {row.id for row in chosen} <= {row.id for row in rows}
    assert runs_of([table], rows, "full") == [] and len(runs_of([], rows, None)) == len(rows)
    assert len(runs_of([other], rows, "mini")) < len(rows)


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path, student: Trained) -> None:
    with pytest.raises(SpecError, match=r"no run of akd/coco is finished in"):
        measure_tables(LatencyRequest(tmp_path, student.place), [fixed_table("akd/coco")], [], print)
