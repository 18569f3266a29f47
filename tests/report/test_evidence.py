"""Evidence beside a reported number: which runs are compared with it, which are not and why, and how it is printed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from kdbench.report import files
from kdbench.report.cells import Cell, collect
from kdbench.report.evidence import Claim, Evidence, Published, Subject, gather
from kdbench.report.table_view import table_view
from kdbench.report.terminal import print_tables
from kdbench.spec.reported import Reported
from kdbench.spec.reruns import Rerun, Setting
from kdbench.spec.table import Pair, ReportedTable, Table
from tests.helpers.tables import cifar_table
from tests.helpers.weights import make_weights

SUBJECT = Subject("cifar100", "resnet56", "resnet20", "kd", "top1")
REPORTED = Reported(
    paper="test", table="1", dataset="cifar100", strategy="", teacher="resnet56", teacher_value=72.34,
    student="resnet20", student_value=69.0, method="kd", metric="top1", value=70.66, std=None, selection="last",
    source="owner/code@1:README.md#L5", evidence="primary", note="",
)  # fmt: skip


def rerun(value: float, selection: str = "last", **changes: Any) -> Rerun:
    fields = {
        **SUBJECT._asdict(), "value": value, "selection": selection, "teacher_value": None, "by": "independent",
        "code": "owner/code", "source": f"{value}", "differs": "", "note": "",
    }  # fmt: skip
    return Rerun.model_validate(fields | changes)


def evidence(*runs: Rerun, reported: Reported | None = REPORTED, selection: str = "last") -> dict[str, Evidence]:
    return dict(gather(Claim(SUBJECT, reported, selection, 0.25), Published(runs)))


def test_runs_of_the_same_epoch_are_compared_with_their_mean_and_sd() -> None:
    found = evidence(rerun(70.0), rerun(70.4), rerun(70.8), rerun(71.5, "best"))["reruns"]
    assert (found.sample.mean, found.sample.n, found.selection) == (pytest.approx(70.4), 3, "last")
    assert found.verdict.word == "reproduced"
    assert found.verdict.difference == pytest.approx(-0.26)
    assert found.verdict.tolerance == pytest.approx((0.98 + 0.25**2 * 1.96**2) ** 0.5, abs=0.02)
    assert found.notes == ("also 71.50 (best epoch, and the paper reports the last): +0.84",)


def test_best_and_last_of_one_source_are_one_run() -> None:
    found = evidence(rerun(70.77, "best", source="a log"), rerun(70.67, "last", source="a log"), rerun(71.5, ""))
    assert (found["reruns"].sample.n, found["reruns"].found) == (1, 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"teacher_value": 73.0}, "teacher 73.0, not 72.34"),
        ({"differs": "a reimplementation"}, "a reimplementation"),
        ({"selection": "best"}, "best epoch, and the paper reports the last"),
        ({"selection": ""}, "unknown epoch, and the paper reports the last"),
        ({"differs": "other teachers", "teacher_value": 73.0}, "teacher 73.0, not 72.34"),
    ],
)
def test_what_is_not_alike_has_a_difference_and_no_verdict(changes: dict[str, Any], reason: str) -> None:
    found = evidence(rerun(69.0, **changes))["reruns"]
    assert (found.verdict.word, found.verdict.reason) == ("not comparable", reason)
    assert found.verdict.difference == pytest.approx(-1.66)
    assert found.verdict.tolerance is None


def test_comparable_runs_come_before_others() -> None:
    found = evidence(rerun(60.0, teacher_value=73.0), rerun(70.5))["reruns"]
    assert (found.sample.mean, found.verdict.word) == (70.5, "reproduced")
    assert found.notes == ("also 60.00 (teacher 73.0, not 72.34): -10.66",)


@pytest.mark.parametrize(
    ("selection", "word"), [("", "reproduced"), ("best", "reproduced"), ("last", "not comparable")]
)
def test_where_the_paper_does_not_say_the_tables_epoch_is_compared(selection: str, word: str) -> None:
    silent = REPORTED.model_copy(update={"selection": ""})
    assert evidence(rerun(70.5, selection), reported=silent, selection="best")["reruns"].verdict.word == word


def test_authors_logs_are_kept_apart_and_a_source_is_no_evidence_for_itself() -> None:
    own = rerun(70.66, source="owner/code@1:README.md#L9")
    found = evidence(rerun(70.1, by="authors"), own)
    assert set(found) == {"logs"}
    assert found["logs"].sample.mean == 70.1


@pytest.mark.parametrize(
    "changes",
    [{"dataset": "imagenet"}, {"teacher": "resnet110"}, {"student": "resnet8"}, {"method": "dkd"}, {"metric": "top5"}],
)
def test_runs_of_something_else_are_no_evidence(changes: dict[str, str]) -> None:
    assert evidence(rerun(70.0, **changes)) == {}


def test_a_student_alone_has_no_teacher_to_differ() -> None:
    alone = REPORTED.model_copy(update={"method": "none", "value": 69.0})
    run = rerun(69.1, method="none", teacher="resnet110", teacher_value=74.0)
    found = gather(Claim(SUBJECT._replace(method="none"), alone, "last", 0.25), Published([run]))
    assert found["reruns"].verdict.word == "reproduced"


def test_without_a_reported_number_runs_are_shown_all_the_same() -> None:
    found = evidence(rerun(70.5), rerun(71.0, "best"), reported=None)["reruns"]
    assert (found.sample.mean, found.verdict.word, found.verdict.difference) == (70.5, "measured", None)


def test_published_weights_are_compared_like_runs() -> None:
    rows = [make_weights("resnet20", "kd", teacher="resnet56", top1=70.77, selection="best")]
    found = gather(Claim(SUBJECT, REPORTED, "last", 0.25), Published(weights=rows))["weights"]
    assert found.sample.mean == 70.77
    assert found.verdict.word == "not comparable"
    assert found.verdict.difference == pytest.approx(0.11)
    assert gather(Claim(SUBJECT._replace(method="dkd"), REPORTED, "last", 0.25), Published(weights=rows)) == {}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    path = tmp_path / "paper.csv"
    lines = [REPORTED, REPORTED.model_copy(update={"teacher": "resnet110", "teacher_value": 74.31})]
    pd.DataFrame([dict(line) for line in lines]).to_csv(path, index=False)
    pairs = tuple(Pair(teacher=teacher, student="resnet20") for teacher in ("resnet56", "resnet110"))
    return cifar_table("none", "kd", pairs=pairs, reported=(ReportedTable(file=str(path), table="1"),))


PUBLISHED = Published(
    [rerun(70.5, source="a"), rerun(70.7, source="b"), rerun(71.2, "best", source="a"), rerun(69.9, by="authors")],
    [
        Setting(method="kd", teacher="resnet56", student="resnet20", options="T=4", source="s"),
        Setting(method="kd", teacher="resnet110", student="resnet20", options="T=3", source="s"),
    ],
    [make_weights("resnet20", "kd", teacher="resnet56", top1=70.9, selection="last")],
)


def test_each_kind_has_a_column_of_its_own(table: Table) -> None:
    console = Console(file=io.StringIO(), width=300, highlight=False)
    text = print_tables([table], [], published=PUBLISHED, out=None, console=console)
    assert "(full scale)" in text, "evidence is shown without any run"
    line = next(line for line in text.splitlines() if line.startswith("kd "))
    assert "tuned per pair" in line
    assert "70.60 ± 0.14 (2) -0.06 reproduced [1]" in line
    assert "69.90 (n=1) -0.76 below" in line
    assert "70.90 (n=1) +0.24 reproduced" in line
    assert "also 71.20 (best epoch, and the paper reports the last): +0.54" in text


def test_csv_holds_the_evidence_unrounded(table: Table) -> None:
    frame = files.csv_frame(table, cells(table)).set_index(["teacher", "method"])
    record = frame.loc[("resnet56", "kd")]
    expected = {
        "settings": "tuned per pair", "reruns": pytest.approx(70.6), "reruns_sd": pytest.approx(0.1414, abs=1e-4),
        "reruns_n": 2, "reruns_found": 2, "reruns_selection": "last", "reruns_verdict": "reproduced",
        "reruns_difference": pytest.approx(-0.06), "reruns_source": "a; b", "logs": 69.9, "logs_verdict": "below",
        "weights": 70.9, "weights_difference": pytest.approx(0.24), "weights_n": 1,
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    assert frame.loc[("resnet110", "kd"), "reruns_n"] == 0


def test_evidence_is_of_the_papers_networks_and_data_alone(table: Table) -> None:
    assert not any(cell.evidence for cell in collect(table, [], "mini", PUBLISHED))
    quarter = table.model_copy(update={"pairs": (table.pairs[0].model_copy(update={"data": {"fraction": 0.25}}),)})
    assert not any(cell.evidence for cell in cells(quarter))


def test_without_evidence_a_table_has_no_column_for_it(table: Table) -> None:
    view = table_view(table, collect(table, [], "full"), "full")
    assert not {"reruns", "logs", "weights"} & set(view.columns)


def cells(table: Table) -> list[Cell]:
    return collect(table, [], "full", PUBLISHED)
