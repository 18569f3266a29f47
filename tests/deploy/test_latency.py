"""Latency, memory and int8 files of exported students."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from kdbench.deploy import formats, timing
from tests.helpers.students import train

pytestmark = pytest.mark.integration

MISSING = [name for name in formats.FORMATS["onnx"].libraries if find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_a_quantized_file_is_smaller_and_has_a_score(tmp_path: Path) -> None:
    student = train("classification", "resnet8", tmp_path)
    described = student.export("onnx", tmp_path / "out", int8=True)
    whole, small = described.files
    assert (whole.format, small.format) == ("onnx", "onnx-int8") and small.bytes < whole.bytes
    assert small.check.metric == "top1" and small.check.measured is not None and "int8" in small.quantized
    assert small.quantized in (tmp_path / "out" / "README.md").read_text()


def test_latency_is_measured_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.deploy.latency.BATCHES", (1, 2))
    student = train("classification", "resnet8", tmp_path)
    (file,) = student.export("torch", tmp_path / "out", latency=True).files
    assert [(each.program, each.batch, each.threads) for each in file.latency] == [("eager", 1, 1), ("eager", 2, 1)]
    assert all(0 < each.median_ms <= each.p95_ms and each.runs >= timing.LEAST for each in file.latency)
    assert all(each.peak_memory is None or each.peak_memory > 0 for each in file.latency)
    assert "| student.pt | eager | 2 |" in (tmp_path / "out" / "README.md").read_text()
