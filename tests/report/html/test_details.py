"""Files of details: what is in them, how large they are, and that damaged files beside rows cost nothing else."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kdbench.records.row import Epoch, Row
from kdbench.records.store import Store, read_rows
from kdbench.report.html import site
from kdbench.report.html.curves import MISSING, curves
from kdbench.report.html.details import Sources
from kdbench.report.html.lines import Line
from kdbench.report.html.shards import LARGEST, write_details
from kdbench.report.html.specification import Specifications
from kdbench.report.panel_file import read_panel
from tests.helpers.detail_pages import IMAGES, SIDE, content, lines, panel, write_runs

pytest.importorskip("itables", reason="itables is not installed: pip install 'kdbench[report]'")
pytest.importorskip("plotly", reason="plotly is not installed: pip install 'kdbench[report]'")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_runs(tmp_path / "runs")
    return tmp_path / "runs"


def first_measured(of: list[Line], method: str = "dist") -> Line:
    return next(line for line in of if line.cell and line.cell.rows and line.method == method)


def written(folder: Path) -> dict[str, dict[str, Any]]:
    """The details of every line, by id."""
    found: dict[str, dict[str, Any]] = {}
    for path in (folder / "data/cells").iterdir():
        (text,) = re.findall(r"JSON\.parse\('(.*)'\)", path.read_text(encoding="utf-8"))
        shard = json.loads(text.replace("\\'", "'").replace("\\\\", "\\"))
        for content_of in shard["cells"].values():
            for section in content_of["sections"]:
                if "blocks" in section:
                    section["text"] = "".join(shard["texts"][k] for k in section["blocks"])
        found |= shard["cells"]
    return found


def section(content_of: dict[str, Any], title: str) -> dict[str, Any]:
    return next(each for each in content_of["sections"] if each["title"].startswith(title))


def unpacked(packed: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Packed values, as the page reads them."""
    places = np.frombuffer(base64.b64decode(packed["at"]), "<u2").astype(float)
    share = np.where(places == MISSING, np.nan, places / (MISSING - 1))
    low, high = packed["low"], packed["high"]
    return np.asarray(low * (high / low) ** share if packed["log"] else low + (high - low) * share)


def with_epochs(row: Row, epochs: list[Epoch]) -> Row:
    return row.model_copy(update={"history": tuple(epochs)})


def test_curves_keep_their_values(runs: Path) -> None:
    line = first_measured(lines(read_rows([runs])[0]))
    assert line.cell
    losses = [{"task": 10.0 ** (3 - k), "kd": 2.0} for k in range(6)]
    epochs = [
        Epoch(epoch=k + 1, steps=100 * (k + 1), lr=0.1, losses=each, metrics={"ap": 3.21 * k} if k % 2 else {})
        for k, each in enumerate(losses)
    ]
    row = with_epochs(line.cell.rows[0], epochs)
    object.__setattr__(line.cell, "rows", (row,))
    (made,), problems = curves(line.cell)
    assert not problems and made["last"] == "16.05"
    assert made["steps"] == {"first": 100, "by": 100, "count": 6}
    assert unpacked(made["losses"]["task"]) == pytest.approx([each["task"] for each in losses], rel=2e-4)
    assert made["losses"]["task"]["log"] and unpacked(made["losses"]["kd"]) == pytest.approx([2.0] * 6)
    expected = [3.21 * k if k % 2 else np.nan for k in range(6)]
    assert unpacked(made["metric"]) == pytest.approx(expected, abs=2e-3, nan_ok=True)


def test_many_lines_are_in_few_files_and_each_is_found_by_its_place(tmp_path: Path, runs: Path) -> None:
    shown = lines(read_rows([runs])[0])
    many = [line for line in shown for _ in range(40)]
    named = [line.__class__(**line.__dict__ | {"id": f"{k:016x}"}) for k, line in enumerate(many)]
    starts, files = write_details(named, tmp_path / "out", Sources())
    assert 1 < len(starts) < len(named) / 20
    assert files == {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.js")}
    assert all((tmp_path / "out" / file).stat().st_size < 1.1 * LARGEST for file in files)
    places = [*(first for _, first in starts), len(named)]
    for (name, first), end in zip(starts, places[1:], strict=True):
        text = (tmp_path / "out/data/cells" / f"{name}.js").read_text()
        assert all(f'"{line.id}":' in text for line in named[first:end])


def test_a_specification_is_the_whole_of_its_run(runs: Path) -> None:
    specifications = Specifications()
    for row in read_rows([runs])[0]:
        text = "".join(specifications.blocks(row.run))
        assert yaml.safe_load(text) == json.loads(json.dumps(row.run.model_dump(mode="json", exclude_defaults=True)))


def test_classes_are_beside_teacher_and_none(runs: Path, tmp_path: Path) -> None:
    made = content(runs)
    site.write(made, tmp_path / "out")
    line = first_measured(list(made.lines))
    classes = section(written(tmp_path / "out")[line.id], "AP of classes")
    assert classes["head"] == ["class", "boxes", "AP", "- teacher", "- none"] and len(classes["rows"]) == 10
    assert line.cell and line.cell.gain
    scores = [row[2] for row in classes["rows"]]
    assert scores == sorted(scores, reverse=True)
    assert {row[4] for row in classes["rows"]} == {round(scores[0] - _none_best(made), 2)}


def _none_best(made: site.Content) -> float:
    none = first_measured(list(made.lines), "none").cell
    assert none and none.rows[0].metrics
    return none.rows[0].metrics.last["ap"] + 4.5


def test_damage_beside_a_row_is_a_note_and_the_rest_is_shown(runs: Path, tmp_path: Path) -> None:
    rows = read_rows([runs])[0]
    line = first_measured(lines(rows))
    assert line.cell
    (runs / line.cell.rows[0].id / "classes.json").write_text("{}")
    plots = tmp_path / "plots"
    panel(plots / "a-panel.png", rows)
    (plots / "b-panel.png").write_bytes((plots / "a-panel.png").read_bytes()[:200])
    logged: list[str] = []
    site.write(content(runs, plots), tmp_path / "out", logged.append)
    found = written(tmp_path / "out")[line.id]
    assert "classes.json: checksum" in str(section(found, "Notes")["facts"])
    assert found["curves"] and len(found["pictures"]["images"]) == len(IMAGES)
    text = "\n".join(logged)
    assert "left out: " in text and "classes.json: checksum" in text and "b-panel.png: is no whole PNG" in text


def test_a_history_that_cannot_be_read_is_a_note(runs: Path, tmp_path: Path) -> None:
    (row,) = [row for row in read_rows([runs])[0] if row.run.method == "dist" and row.run.seed == 1][:1]
    epoch = row.history[0]
    Store(runs).write(with_epochs(row, [epoch.model_copy(update={"epoch": k, "steps": k}) for k in range(1, 200)]))
    made = content(runs)
    (runs / row.id / "row.json").unlink()
    logged: list[str] = []
    site.write(made, tmp_path / "out", logged.append)
    line = first_measured(list(made.lines))
    found = written(tmp_path / "out")
    (noted,) = [each for each in found.values() if "curves of seed 1 are left out" in str(each["sections"])]
    assert [curve["name"] for curve in noted["curves"]] == ["seed 0"]
    assert line.id in found and "curves of seed 1 are left out" in "\n".join(logged)


def test_pictures_of_other_weights_are_not_shown(runs: Path, tmp_path: Path) -> None:
    panel(tmp_path / "plots/a-panel.png", read_rows([runs])[0], sha256="ab" * 32)
    made = content(runs, tmp_path / "plots")
    site.write(made, tmp_path / "out")
    found = written(tmp_path / "out")[first_measured(list(made.lines)).id]
    assert found["pictures"] == {
        "missing": "Its pictures are of an earlier training of the run; `kdbench plots dist/coco --scale mini` draws "
        "them anew."
    }
    assert not (tmp_path / "out/data/pictures").exists()


def test_pictures_and_details_of_an_earlier_report_are_removed(runs: Path, tmp_path: Path) -> None:
    panel(tmp_path / "plots/a-panel.png", read_rows([runs])[0])
    site.write(content(runs, tmp_path / "plots"), tmp_path / "out")
    before = {path.name for path in (tmp_path / "out/data/cells").iterdir()}
    assert list((tmp_path / "out/data/pictures").iterdir())
    shutil.rmtree(tmp_path / "plots")
    site.write(content(runs, tmp_path / "plots"), tmp_path / "out")
    assert not list((tmp_path / "out/data/pictures").iterdir())
    assert not before & {path.name for path in (tmp_path / "out/data/cells").iterdir()}


def test_a_panel_says_what_is_where(runs: Path, tmp_path: Path) -> None:
    record = panel(tmp_path / "panel.png", read_rows([runs])[0])
    assert read_panel(tmp_path / "panel.png") == record
    assert record.rows[1].tiles[1].box == (SIDE, SIDE, 2 * SIDE, 2 * SIDE)
