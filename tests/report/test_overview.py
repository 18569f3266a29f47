"""The overview: what is counted for each paper, and that README has the one of what comes with kdbench."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from kdbench.errors import SpecError
from kdbench.report import overview_text
from kdbench.report.evidence import Published
from kdbench.report.html.lines import all_lines
from kdbench.report.overview import Summary, summarize, total
from kdbench.report.readme import BEGIN, END, with_overview
from kdbench.report.terminal import print_overview
from kdbench.spec.reported import Reported
from kdbench.spec.reruns import Rerun, all_reruns
from kdbench.spec.run import Data
from kdbench.spec.table import ReportedTable, Table
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table

DATA = Data(name="cifar100", fingerprint="c1", train_images=50_000, val_images=10_000, classes=100)


def number(paper: str, method: str, value: float | None, source: str = "a table") -> Reported:
    return Reported(
        paper=paper, table="1", dataset="cifar100", strategy="", teacher="resnet56", teacher_value=72.34,
        student="resnet20", student_value=None, method=method, metric="top1", value=value, std=None, selection="last",
        source=source, evidence="primary", note="",
    )  # fmt: skip


def rerun(method: str, value: float, by: str = "independent", source: str = "a run") -> Rerun:
    return Rerun.model_validate(
        {"dataset": "cifar100", "teacher": "resnet56", "teacher_value": None, "student": "resnet20", "metric": "top1",
         "selection": "last", "code": "c", "differs": "", "note": "", "method": method, "value": value, "by": by,
         "source": source}
    )  # fmt: skip


NUMBERS = {
    "test": [
        number("test", "kd", 70.66),
        number("test", "crd", 71.0),
        number("test", "at", None),
        number("test", "teacher", 72.34),
        number("test", "crd+kd", 72.0),
    ],
    "other": [number("other", "kd", 70.66), number("other", "new", 73.0), number("other", "logged", 73.5, "their log")],
}
PUBLISHED = Published([rerun("kd", 70.5), rerun("new", 70.0), rerun("logged", 73.5, "authors", "their log")])


@pytest.fixture
def table(tmp_path: Path) -> Table:
    path = tmp_path / "test.csv"
    pd.DataFrame([dict(line) for line in NUMBERS["test"]]).to_csv(path, index=False)
    return cifar_table("none", "kd", "crd", reported=(ReportedTable(file=str(path), table="1"),))


def counts(summary: Summary) -> dict[str, int]:
    names = ("reproduced", "above", "below")
    found = {"numbers": len(summary.entries), "runnable": summary.runnable, "measured": summary.measured}
    return found | {name: summary.decided(name) for name in names} | {"open": summary.open}


def test_each_number_has_the_verdict_of_its_strongest_evidence(table: Table) -> None:
    crd = next(entry for entry in table.methods if entry.method == "crd")
    rows = [make_row(table, table.pairs[0], crd, "full", 0, 75.0, data=DATA, teacher_value=72.3)]
    test, other = summarize([table], NUMBERS, rows, PUBLISHED)
    assert (test.name, other.name) == ("test", "other")
    expected = {"numbers": 3, "runnable": 2, "measured": 1, "reproduced": 1, "above": 1, "below": 0, "open": 1}
    assert counts(test) == expected
    expected = {"numbers": 2, "runnable": 0, "measured": 0, "reproduced": 1, "above": 0, "below": 1, "open": 0}
    assert counts(other) == expected, "a number whose source is a log is a log, no report"
    assert other.difference is not None
    assert other.difference.mean == pytest.approx((-0.16 - 3.0) / 2)
    assert [method.name for method in other.by_method()] == ["kd", "new"]


def test_what_is_trained_here_comes_before_what_others_ran(table: Table) -> None:
    kd = next(entry for entry in table.methods if entry.method == "kd")
    row = make_row(table, table.pairs[0], kd, "full", 0, 68.0, data=DATA, teacher_value=72.3)
    test = next(paper for paper in summarize([table], NUMBERS, [row], PUBLISHED) if paper.name == "test")
    assert (test.decided("reproduced"), test.decided("below")) == (0, 1)
    assert test.difference is not None
    assert test.difference.mean == pytest.approx(68.0 - 70.66)


def test_a_quoted_number_counts_once_in_total(table: Table) -> None:
    every = total(summarize([table], NUMBERS, [], PUBLISHED))
    assert counts(every) == {
        "numbers": 4,
        "runnable": 2,
        "measured": 0,
        "reproduced": 1,
        "above": 0,
        "below": 1,
        "open": 2,
    }


def test_the_student_alone_is_a_number_of_its_paper_where_a_table_trains_it(tmp_path: Path) -> None:
    numbers = [row.model_copy(update={"student_value": 69.06}) for row in NUMBERS["test"]]
    path = tmp_path / "alone.csv"
    pd.DataFrame([dict(line) for line in numbers]).to_csv(path, index=False)
    source = (ReportedTable(file=str(path), table="1"),)
    trained = cifar_table("none", "kd", reported=source)
    rows = [make_row(trained, trained.pairs[0], trained.methods[0], "full", 0, 69.0, data=DATA)]
    [test] = summarize([trained], {"test": numbers}, rows, Published([]))
    assert {entry.reported.method for entry in test.entries} == {"kd", "crd", "crd+kd", "none"}
    lines = [line for line in all_lines([trained], rows, Published([]), [test]) if line.scale == "full"]
    assert counts(test)["reproduced"] == sum(line.verdict == "reproduced" for line in lines) == 1
    [untrained] = summarize([], {"test": numbers}, rows, Published([]))
    assert {entry.reported.method for entry in untrained.entries} == {"kd", "crd", "crd+kd"}


def test_mini_rows_are_no_evidence(table: Table) -> None:
    row = make_row(table, table.pairs[0], table.methods[1], "mini", 0, 70.66)
    before, after = (summarize([table], NUMBERS, rows, PUBLISHED) for rows in ([], [row]))
    assert [counts(paper) for paper in before] == [counts(paper) for paper in after]


@pytest.mark.parametrize("width", [80, 150])
def test_the_terminal_keeps_the_verdicts_on_a_narrow_page(width: int, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    text = print_overview([], [], (), PUBLISHED, tmp_path, console)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "duced" in text and "below" in text and "evidence - reported" in text
    assert "…" not in text
    assert {path.name for path in tmp_path.iterdir()} == {"summary.csv", "summary.md"}


def test_own_rows_are_pointed_at(table: Table) -> None:
    row = make_row(table, table.pairs[0], table.methods[1], "full", 0, 70.0, data=DATA)
    assert overview_text.own_rows([table], [row]) == [f"1 row on cifar100: `kdbench table {table.name}` prints them"]
    mine = row.model_copy(update={"run": row.run.model_copy(update={"data": DATA.model_copy(update={"name": "mine"})})})
    assert overview_text.own_rows([table], [mine]) == ["1 row on mine: `kdbench table --all` prints them"]


def test_dkds_independent_reruns_stay_below_its_report() -> None:
    """What the committed evidence shows; a further rerun may change counts, not what these runs are."""
    from kdbench.report.overview import Subject
    from kdbench.spec.reported import load_reported

    runs = [run for run in all_reruns() if run.method == "dkd" and run.by == "independent" and run.selection == "best"]
    reported = {Subject.of(row): row.value for row in load_reported("dkd")}
    of = [(run, reported[Subject(run.dataset, run.teacher, run.student, run.method, run.metric)]) for run in runs]
    differences = [run.value - value for run, value in of if value is not None]
    assert len(differences) == 11
    assert sum(differences) / 11 == pytest.approx(-0.35, abs=0.005)
    assert (min(differences), max(differences)) == (pytest.approx(-0.76), pytest.approx(-0.03))


def test_readme_gets_the_overview_between_its_marks(table: Table) -> None:
    papers = summarize([table], NUMBERS, [], PUBLISHED)
    text = with_overview(f"above\n{BEGIN}\nstale words\n{END}\nbelow\n", papers)
    assert text.startswith("above\n") and text.endswith("below\n") and "stale words" not in text
    assert overview_text.headline(papers) in text
    assert re.search(r"^\| test +\| 3 +\| 2 +\|", text, re.MULTILINE)
    assert not re.search(r"^\| other", text, re.MULTILINE), "papers without a table are left to `make table`"
    assert with_overview(text, papers) == text
    with pytest.raises(SpecError, match="exactly one part"):
        with_overview("no marks", papers)


def test_readme_has_the_marks() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
