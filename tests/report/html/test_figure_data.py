"""Data of the figures: what is drawn of many methods, which lines are on the front, and what feeds say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.regress.baselines import keep
from kdbench.regress.history_page import table_histories
from kdbench.report.evidence import NOTHING
from kdbench.report.gains import pareto_front
from kdbench.report.html import figures, history_data
from kdbench.report.html.feed import ATOM, atom
from kdbench.report.html.history_data import Point, TableHistory
from kdbench.report.html.lines import Line, all_lines
from kdbench.report.html.rank_data import MOST, rankings
from kdbench.report.verdicts import Sample
from kdbench.spec.reported import load_reported
from kdbench.spec.table import Table
from tests.helpers.altered import altered
from tests.helpers.command import kdbench
from tests.helpers.figure_pages import COMMITS, latest, ranked_rows, ranked_table
from tests.helpers.report_pages import HOSTILE
from tests.helpers.rows import expand, mini_truth
from tests.helpers.tables import fixed_table


@pytest.fixture(scope="module")
def table() -> Table:
    return ranked_table()


@pytest.fixture(scope="module")
def rows(table: Table) -> list[Row]:
    return ranked_rows(table)


@pytest.fixture(scope="module")
def lines(table: Table, rows: list[Row]) -> list[Line]:
    return all_lines([table], latest(rows), NOTHING)


@pytest.fixture(scope="module")
def histories(table: Table, rows: list[Row]) -> list[TableHistory]:
    return table_histories([table], rows)


def test_the_front_has_what_no_other_beats() -> None:
    points = [(1.0, 0.0), (1.2, 1.0), (1.2, 0.5), (1.3, 1.0), (2.0, 3.0), (1.2, 1.0), (0.9, -1.0)]
    assert pareto_front(points) == [True, True, False, False, True, True, True]
    assert pareto_front([]) == []


def test_a_pair_has_gains_costs_and_their_origin(lines: list[Line]) -> None:
    content = figures.content(figures.groups(lines)[0])
    pair = content["pairs"][0]
    assert pair["origin"] == f"24 rows; seeds 0, 1, 2, 3; commit {COMMITS[2]}; machine 2-core x86"
    dkd = next(method for method in pair["methods"] if method["name"] == "dkd")
    line = next(line for line in lines if line.id == dkd["id"])
    assert line.cell and line.cell.gain and line.cell.gain_kd
    assert dkd["gain"] == pytest.approx([line.cell.gain.mean, line.cell.gain.half_width, 4], rel=1e-5)
    assert dkd["gain_kd"][0] == pytest.approx(line.cell.gain_kd.mean, rel=1e-5)
    assert dkd["time"] == pytest.approx(1.35) and dkd["front"] == [True, True]


def test_one_seed_has_no_interval(table: Table, rows: list[Row]) -> None:
    one = [row for row in latest(rows) if row.run.seed == 0]
    content = figures.content(figures.groups(all_lines([table], one, NOTHING))[0])
    gains = [method["gain"] for method in content["pairs"][0]["methods"]]
    assert {(gain[1], gain[2]) for gain in gains} == {(None, 1)}


def test_of_many_methods_the_best_and_the_front_are_drawn(lines: list[Line]) -> None:
    line = next(line for line in lines if line.method == "dkd")
    others = [_varied(line, i) for i in range(500)]
    pair = figures.content(figures.groups([*lines, *others])[0])["pairs"][0]
    drawn = pair["methods"]
    assert len(drawn) + pair["more"] == 506 and figures.MOST < len(drawn) <= 3 * figures.MOST + 1
    assert [each["name"] for each in drawn[:3]] == ["dkd 499", "dkd 498", "dkd 497"]
    assert {"none"} <= {each["name"] for each in drawn} and pair["on_front"][0] > 400


def _varied(line: Line, i: int) -> Line:
    """A method that gains more than the last one, at a higher cost."""
    assert line.cell and line.cell.cost
    cost = dataclasses.replace(line.cell.cost, factor=2 + i / 100, step_seconds=1 + i / 100)
    cell = dataclasses.replace(line.cell, gain=Sample(3 + i / 100, 0.1, 3), cost=cost)
    return dataclasses.replace(line, id=f"{i:016x}", method=f"dkd {i}", cell=cell)


def test_ranks_are_of_rows_and_of_reported_numbers_apart(lines: list[Line]) -> None:
    pytest.importorskip("scikit_posthocs")
    measured, reported = rankings(figures.groups(lines), {"lskd": load_reported("lskd")})
    assert (measured["kind"], reported["kind"]) == ("measured", "reported")
    assert "none" not in measured["names"] and HOSTILE in measured["names"] and measured["names"][0] == "dkd"
    assert measured["origin"] == "5 methods on 5 pairs, the mean over seeds of what was measured here"
    assert reported["origin"] == "8 methods on 14 pairs, one reported number each"
    assert reported["difference"] == pytest.approx(2.806, abs=1e-3)  # 3.031 sqrt(8 9 / (6 14)): Demšar, table 5
    for first, last in reported["alike"]:
        assert reported["ranks"][last] - reported["ranks"][first] < reported["difference"]


def test_of_many_methods_those_of_the_best_mean_are_ranked(lines: list[Line]) -> None:
    pytest.importorskip("scikit_posthocs")
    many = [dataclasses.replace(line, method=f"{line.method} {k}") for line in lines for k in range(12)]
    [record] = rankings(figures.groups(many), {})
    assert len(record["names"]) == MOST and "30 more methods" in record["words"]


def test_histories_say_which_commit_changed_what(histories: list[TableHistory]) -> None:
    [history] = histories
    assert [commit for commit, _ in history.commits] == list(COMMITS)
    found = history_data.changes(histories)
    assert {(each.method, each.of, each.word, each.commit) for each in found} == {
        ("dist", "accuracy", "regressed", COMMITS[1]),
        ("at", "step time", "regressed", COMMITS[1]),
    }
    assert len(found) == 10


def test_of_a_panel_with_many_methods_those_that_changed_are_drawn(histories: list[TableHistory]) -> None:
    panel = histories[0].panels[0]
    still = {f"method {k}": [Point(0, 70.0, "unchanged", ""), Point(1, 70.0, "unchanged", "")] for k in range(100)}
    wide = dataclasses.replace(panel, lines={**still, **panel.lines})
    content = history_data.content(dataclasses.replace(histories[0], panels=[wide]))["panels"][0]
    names = {line["name"] for line in content["lines"]}
    assert len(names) == history_data.MOST_LINES and {"dist", "none"} <= names
    assert content["more"] == 106 - history_data.MOST_LINES


def test_one_commit_has_no_history(table: Table, rows: list[Row]) -> None:
    assert table_histories([table], latest(rows)) == []


def test_the_feed_has_regressions_with_links(histories: list[TableHistory]) -> None:
    changes = history_data.changes(histories)
    improved = dataclasses.replace(changes[0], word="improved")
    hostile = dataclasses.replace(changes[0], method=f"{HOSTILE}\x07", commit="f" * 12)
    feed = ElementTree.fromstring(atom([improved, hostile, *changes]))
    entries = feed.findall(f"{{{ATOM}}}entry")
    assert len(entries) == 11 and len({entry.findtext(f"{{{ATOM}}}id") for entry in entries}) == 11
    assert HOSTILE in (entries[0].findtext(f"{{{ATOM}}}title") or "")
    link = entries[1].find(f"{{{ATOM}}}link")
    assert link is not None and link.attrib["href"].startswith("../figures.html#history=test%2Franks")
    assert feed.findtext(f"{{{ATOM}}}updated") == changes[0].finished
    assert ElementTree.fromstring(atom([])).findall(f"{{{ATOM}}}entry") == []


def test_the_command_compares_runs_with_kept_rows(tmp_path: Path) -> None:
    """Rows of one commit are kept in results/baselines, those of the next are in results/runs."""
    table = fixed_table("dist/coco")
    made = expand(table, "mini", (0, 1, 2, 3), mini_truth)
    runs = tmp_path / "results/runs"
    for commit, shift, day in ((COMMITS[0], 0.0, 1), (COMMITS[1], -12.0, 2)):
        for row in made:
            assert row.metrics
            ap = row.metrics.last["ap"] + (shift if row.run.method == "dist" else 0)
            Store(runs).write(altered(row, commit=commit, day=day, values={"ap": ap}))
        if commit == COMMITS[0]:
            keep(runs, tmp_path / "results/baselines")
    done = kdbench("report", "dist/coco", "--out", "page", folder=tmp_path, environment={})
    assert done.returncode == 0, done.stderr
    feed = ElementTree.parse(tmp_path / "page/data/regressions.xml")
    titles = [title.text or "" for title in feed.iterfind(f"{{{ATOM}}}entry/{{{ATOM}}}title")]
    assert titles and all(title.startswith("dist on dist/coco, mini scale") for title in titles)
    assert all(title.endswith(f"accuracy regressed (-12.00) at {COMMITS[1]}") for title in titles)
