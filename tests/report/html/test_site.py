"""The report as files: what is written, what is refused, and that text from outside stays text."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench.errors import SpecError, StoreError
from kdbench.report.evidence import NOTHING
from kdbench.report.html import libraries, site
from kdbench.report.html.columns import COLUMNS
from kdbench.report.html.details import Sources, arithmetic, details
from kdbench.report.html.lines import Line, all_lines
from kdbench.report.html.packed import packed, script
from kdbench.report.verdicts import Sample
from kdbench.spec.table import load_table
from tests.helpers.command import kdbench
from tests.helpers.report_pages import HOSTILE, content, tables
from tests.helpers.report_pages import rows as synthetic_rows

pytest.importorskip("itables", reason="itables is not installed: pip install 'kdbench[report]'")
pytest.importorskip("plotly", reason="plotly is not installed: pip install 'kdbench[report]'")


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return all_lines(tables(), synthetic_rows(), NOTHING)


def decoded(part: dict[str, Any] | None, count: int) -> list[Any]:
    """The values of a part, as the page reads them."""
    if part is None:
        return [None] * count
    if "floats" in part:
        floats = np.frombuffer(base64.b64decode(part["floats"]), "<f4")
        return [None if math.isnan(value) else float(value) for value in floats]
    at = np.frombuffer(base64.b64decode(part["at"]), f"<u{part['width']}")
    return [part["values"][place] for place in at]


def test_every_value_is_in_the_packed_table(lines: list[Line]) -> None:
    data = packed(lines)
    assert data["ids"] == [line.id for line in lines]
    for column, written in zip(COLUMNS, data["columns"], strict=True):
        expected = list(zip(*map(column.values, lines), strict=True))
        parts = written["parts"] or [None] * len(expected)
        for values, part in zip(expected, parts, strict=True):
            assert decoded(part, len(lines)) == [
                pytest.approx(value, rel=1e-5) if isinstance(value, float) else value or None for value in values
            ]


def test_lines_are_told_apart_by_ids_that_stay(lines: list[Line]) -> None:
    assert len({line.id for line in lines}) == len(lines)
    assert [line.id for line in all_lines(tables(), synthetic_rows(), NOTHING)] == [line.id for line in lines]
    without_rows = {line.id for line in all_lines(tables(), [], NOTHING)}
    assert without_rows < {line.id for line in lines}


def test_a_mini_cell_has_no_reported_number(lines: list[Line]) -> None:
    mini = [line for line in lines if line.scale == "mini"]
    assert mini
    assert all(line.reported is None and not line.evidence for line in mini)


def test_the_arithmetic_is_the_verdicts(lines: list[Line]) -> None:
    compared = [line for line in lines if line.own_verdict and line.own_verdict.tolerance is not None]
    assert {line.verdict for line in compared} >= {"reproduced", "below"}
    for line in compared:
        assert line.cell and line.cell.measured and line.own_verdict
        facts = dict(arithmetic(line.cell.measured, line, line.own_verdict))
        sampling, noise = (float(facts[name].split("= ")[1]) for name in ("t s / √n", "1.96 s_r"))
        assert math.hypot(sampling, noise) == pytest.approx(line.own_verdict.tolerance, abs=2e-3)
        assert facts["so"].endswith(line.own_verdict.word)


def test_details_have_every_part_of_a_run(lines: list[Line]) -> None:
    line = next(line for line in lines if line.cell and line.cell.measured and line.method == "akd+maskd")
    content_of = details(line, Sources(), Path("unused"))
    titles = " ".join(section["title"] for section in content_of["sections"])
    for part in ("Verdict", "Reported number", "Gains", "Seeds", "Teacher", "Cost", "Environment", "specification"):
        assert part in titles
    assert [curve["name"] for curve in content_of["curves"]] == ["seed 0", "seed 1", "seed 2"]
    assert content_of["curves"][0]["epoch"] == {"first": 1, "by": 1, "count": 24}


def test_scripts_hold_no_markup() -> None:
    text = script("f", HOSTILE, {"\u2028": ["\\", "'", "\n"]})
    assert "<" not in text and "\u2028" not in text
    literals = re.findall(r"JSON\.parse\('((?:[^'\\]|\\.)*)'\)", text)
    assert (
        json.loads(literals[0].replace("\\u003c", "<").replace("\\\\", "\0").replace("\\'", "'").replace("\0", "\\"))
        == HOSTILE
    )


def test_the_page_escapes_names_and_reasons() -> None:
    page = site.page(content())
    assert "<img" not in page and "&lt;img src=x" in page


def test_without_rows_the_page_says_so() -> None:
    made = site.gather([], tables=[load_table("akd/coco")], every=False)
    assert "Nothing has been trained here yet" in made.notes[0]
    assert any(line.reported for line in made.lines)


def test_100_000_lines_are_less_than_15_mb(lines: list[Line]) -> None:
    many = [varied(lines[i % len(lines)], i) for i in range(5000)]
    size = len(json.dumps(packed(many))) / len(many) * 100_000
    libraries_size = sum(map(len, libraries.datatables().values()))
    assert size + libraries_size < 15e6


def varied(line: Line, i: int) -> Line:
    """A line of its own method and numbers, as no two cells have."""
    cell = line.cell
    if cell is None or cell.measured is None or cell.cost is None:
        return dataclasses.replace(line, id=f"{i:016x}", method=f"{line.method}:tau={i}")
    sample = Sample(cell.measured.mean + i * 1.237e-3, 0.1 + i * 1.7e-5, 3)
    cost = dataclasses.replace(cell.cost, step_seconds=0.1 + i / 7e4, images_per_second=9 + i / 7e2, factor=1 + i / 7e3)
    cell = dataclasses.replace(cell, measured=sample, gain=sample, gain_kd=sample, cost=cost)
    return dataclasses.replace(line, id=f"{i:016x}", method=f"{line.method}:tau={i}", cell=cell)


def test_a_new_report_replaces_the_one_in_the_folder(tmp_path: Path, lines: list[Line]) -> None:
    site.write(site.Content(lines[:5], [], []), tmp_path)
    site.write(site.Content(lines[3:6], [], []), tmp_path)
    (shard,) = (tmp_path / "data/cells").iterdir()
    assert all((line.id in shard.read_text()) == (line in lines[3:6]) for line in lines[:6])


def test_a_folder_with_another_page_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(StoreError, match="not written by kdbench report"):
        site.write(content(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize("package", ["itables", "plotly"])
def test_a_missing_library_is_named_with_its_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(SpecError, match=rf"{package}.*pip install 'kdbench\[report\]'"):
        libraries.check_installed()


def test_another_form_of_a_library_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_read", lambda *_: "window.DataTable = 1")
    with pytest.raises(SpecError, match="itables"):
        libraries.datatables()


def test_the_command_writes_a_report_and_names_damaged_rows(tmp_path: Path) -> None:
    damaged = tmp_path / "runs" / ("0" * 16) / "row.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    done = kdbench("report", "akd/coco", "--results", "runs", "--out", "page", folder=tmp_path, environment={})
    assert done.returncode == 0, done.stderr
    assert "left out: runs/0000000000000000/row.json" in done.stdout
    assert "left out" in (tmp_path / "page/index.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "file"), "is a file; give a folder"),
        (("nothing/here",), "unknown table"),
        (("--colour",), "No such option"),
        (("--results", "file"), "is no folder of runs"),
    ],
)
def test_bad_input_is_one_error(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = kdbench("report", *words, folder=tmp_path, environment={})
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()
