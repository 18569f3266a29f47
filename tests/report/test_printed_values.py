"""Every value that a table prints, in every form, on a small table whose numbers all differ."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from kdbench.records.row import Cost, Row
from kdbench.report import files
from kdbench.report.cells import collect
from kdbench.report.evidence import KINDS
from kdbench.report.table_view import TableView, table_view
from kdbench.report.terminal import print_tables
from kdbench.spec.recipe import stretched
from kdbench.spec.reported import Reported
from kdbench.spec.run import Data
from kdbench.spec.table import MethodEntry, ReportedTable, Table
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table

DATA = Data(name="cifar100", fingerprint="c1", train_images=50_000, val_images=10_000, classes=100)
NONE, KD, FITNET, MAG = (
    MethodEntry(method="none"),
    MethodEntry(method="kd", note="a note on kd"),
    MethodEntry(method="fitnet+kd"),
    MethodEntry(method="mag+fitnet", gain_over="fitnet+kd"),
)
SCORES = {
    "none": (70.0, 71.0, 72.0),
    "kd": (72.1, 72.5, 73.8),
    "fitnet+kd": (73.0, 73.1, 74.1),
    "mag+fitnet": (75.0, 75.3, 76.2),
}
LONGER = (72.0, 72.3, 72.6)  # of `none`, trained as long as `mag+fitnet` takes
LONGER_KD = (74.0, 74.4, 75.7)  # likewise of `kd`
STEP_SECONDS = {"none": 0.080, "kd": 0.088, "fitnet+kd": 0.096, "mag+fitnet": 0.110}
GAINS = {"gain": 4.5, "gain_kd": 2.7, "gain_base": 2.1, "gain_equal": 3.2, "gain_kd_equal": 0.8}
REPORTED = {"none": (71.4, None), "kd": (70.0, None), "mag+fitnet": (75.1, 0.2), "crd": (74.0, None)}

PRINTED = {
    "method": "mag+fitnet [2]",
    "reported": "75.10 ± 0.20 [3,4,5]",
    "measured ± sd (n)": "75.50 ± 0.62 (3)",
    "diff / tolerance": "+0.40 / 1.60",
    "verdict": "reproduced",
    "agreement with teacher": "88.40 ± 0.30 (3)",
    "gain over none ± 95 % (n)": "+4.50 ± 1.08 (3)",
    "gain over kd ± 95 % (n)": "+2.70 ± 0.66 (3)",
    "gain over its base ± 95 % (n)": "+2.10 ± 0.25 (3)",
    "gain over none at equal cost ± 95 % (n)": "+3.20 ± 0.86 (3)",
    "gain over kd at equal cost ± 95 % (n)": "+0.80 ± 0.66 (3)",
    "gain per extra training time": "+9.00",
    "time": "×1.50",
    "params M": "12.34",
    "GFLOPs": "5.67",
    "images /s": "321 [6]",
    "step ms": "110",
}
OTHERS = {
    "none": ["none", "71.40", "71.00 ± 1.00 (3)", "-0.40 / 2.53", "reproduced", *"------", "-", "×1.00"],
    "kd": [
        "kd [1]",
        "70.00",
        "72.80 ± 0.89 (3)",
        "+2.80 / 2.26",
        "above",
        "-",
        "+1.80 ± 0.75 (3)",
        "-",
        "-",
        "+1.80 ± 0.75 (3)",
        "-",
    ],
    "fitnet+kd": [
        "fitnet+kd",
        "-",
        "73.40 ± 0.61 (3)",
        "-",
        "measured",
        "-",
        "+2.40 ± 1.29 (3)",
        "+0.60 ± 0.75 (3)",
        "-",
        "-",
        "+0.60 ± 0.75 (3)",
    ],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    path = tmp_path_factory.mktemp("reported") / "paper.csv"
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(Reported.model_fields))
        writer.writeheader()
        writer.writerows(reported(method, *number) for method, number in REPORTED.items())
    return cifar_table(
        NONE, KD, FITNET, MAG, reported=(ReportedTable(file=str(path), table="1"),), citation="A paper, 2020"
    )


def reported(method: str, value: float, std: float | None) -> dict[str, object]:
    """A line of the CSV; that of `mag+fitnet` has everything to be said about a number."""
    weak = method == "mag+fitnet"
    return {
        "paper": "other" if weak else "test", "table": "1", "dataset": "cifar100", "strategy": "",
        "teacher": "resnet56", "teacher_value": 77.3, "student": "resnet20", "student_value": 71.4,
        "method": method, "metric": "top1", "value": value, "std": std, "selection": "", "source": "Table 1",
        "evidence": "figure" if weak else "primary", "note": "read off" if weak else "",
    }  # fmt: skip


@pytest.fixture(scope="module")
def rows(table: Table) -> list[Row]:
    pair = table.pairs[0]
    made = [
        changed(make_row(table, pair, entry, "full", seed, score, data=DATA, teacher_value=77.0, best=score + 0.7))
        for entry in table.methods
        for seed, score in enumerate(SCORES[entry.method])
    ]
    longer = [(NONE, 1.5, LONGER), (KD, 1.25, LONGER_KD)]
    return made + [
        make_row(table, pair, entry, "full", seed, score, data=DATA, recipe=stretched(made[0].run.recipe, factor))
        for entry, factor, scores in longer
        for seed, score in enumerate(scores)
    ]


def changed(row: Row) -> Row:
    """The row with the step time of its method and, for `mag+fitnet`, numbers of its own throughout."""
    assert row.cost and row.metrics
    values: dict[str, float] = {"step_seconds": STEP_SECONDS[row.run.method], "prepare_seconds": 0.0}
    if row.run.method != "mag+fitnet":
        return row.model_copy(update={"cost": Cost(**(row.cost.model_dump() | values))})
    values |= {"params": 12_340_000, "flops": 5.67e9, "images_per_second": 321.0, "data_wait": 0.23}
    values["prepare_seconds"] = 0.010 * row.history[-1].steps
    last = row.metrics.last | {"agreement": 88.1 + 0.3 * row.run.seed, "agreement5": 97.5}
    update = {
        "cost": Cost(**(row.cost.model_dump() | values)),
        "metrics": row.metrics.model_copy(update={"last": last}),
        "learned": {"attention": 936.0 + row.run.seed},
    }
    return row.model_copy(update=update)


@pytest.fixture(scope="module")
def view(table: Table, rows: list[Row]) -> TableView:
    return table_view(table, collect(table, rows, "full"), "full")


@pytest.fixture(scope="module")
def text(table: Table, rows: list[Row]) -> str:
    console = Console(file=io.StringIO(), width=400, highlight=False)
    return print_tables([table], rows, scale="full", out=None, console=console)


def columns_of(text: str, start: str) -> list[str]:
    """The cells of the only line of the terminal that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return re.split(r" {2,}", line.strip())


def test_the_terminal_prints_every_value_in_its_column(text: str) -> None:
    assert columns_of(text, "mag+fitnet ") == list(PRINTED.values())
    for method, record in OTHERS.items():
        assert columns_of(text, f"{method} ")[: len(record)] == record
    at = next(i for i, line in enumerate(text.splitlines()) if line.startswith("method "))
    upper, lower = (re.split(r" {2,}", line.strip()) for line in text.splitlines()[at - 1 : at + 1])
    assert upper == ["measured", "diff /", "agreement", "gain over none", "gain over kd", "gain over its base",
                     "gain over none at", "gain over kd at", "gain per extra", "params", "images", "step"]  # fmt: skip
    assert lower == ["method", "reported", "± sd (n)", "tolerance", "verdict", "with teacher", *["± 95 % (n)"] * 3,
                     "equal cost ± 95 % (n)", "equal cost ± 95 % (n)",
                     "training time", "time", "M", "GFLOPs", "/s", "ms"]  # fmt: skip


def test_header_headings_and_footer_count_what_the_rows_hold(table: Table, text: str) -> None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert lines[:5] == [
        "test/cifar100: A table of a test (full scale)",
        "top-1 accuracy in percent, last epoch. A paper, 2020",
        "scale: full; data: cifar100 (50000 train, 10000 val images, 100 classes); seeds: 0, 1, 2; machine: 2-core x86",
        "resnet56 -> resnet20",
        "teacher: reported 77.3, re-measured 77.00",
    ]
    notes = [line for line in lines if line.startswith("[")]
    assert notes == [
        "[1] a note on kd",
        "[2] learned: attention 937 ± 1 (3)",
        "[3] reported by other",
        "[4] read off",
        "[5] evidence: figure",
        "[6] training waited for data in 23% of its time",
    ]
    footer = [line for line in lines if line.startswith("- ")]
    assert footer[0] == "- Of 3 cells with a reported number: 2 reproduced, 1 above."
    assert "(n=1: 0.25 with factor 1.96), s_r the reported sd, else 0.25" in footer[1]
    assert footer[2] == "- 2 of the 3 reported numbers of distilled students were run, with the paper's networks."
    assert footer[3] == "- Without a result: crd resnet56 -> resnet20: no entry in this table."
    assert footer[5] == "- 95 % intervals of gains over `none`: 3 of 3 above zero, 0 below."
    assert "Seed-to-seed sd 0.80, pooled over 4 cells" in footer[6] and "below about 2.3 is no evidence" in footer[6]
    assert footer[7].endswith("the student alone is 6.0 top-1 accuracy below its teacher (71.0 and 77.0).")
    assert footer[8] == "- Bases: mag+fitnet over fitnet+kd."
    assert footer[9].startswith("- At equal cost: `none` or `kd` trained for as long as the method takes")
    assert footer[10].startswith("- Agreement: percent")
    assert len(footer) == 11


def test_markdown_prints_every_value_under_its_heading(view: TableView) -> None:
    lines = [line for line in files.markdown(view).splitlines() if line.startswith("|")]
    heading, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    records = {record[1].split(" ")[0]: dict(zip(heading, record, strict=True)) for record in body}
    assert records["mag+fitnet"] == {"teacher -> student": "resnet56 -> resnet20"} | PRINTED
    assert {name: list(records[name].values())[1 : 1 + len(cells)] for name, cells in OTHERS.items()} == OTHERS


def test_latex_prints_every_value_under_its_heading(view: TableView) -> None:
    lines = [line.removesuffix(r" \\").split(" & ") for line in files.latex(view).splitlines() if line.endswith(r"\\")]
    plain = {r"\%": "%", r"$\to$": "→", r"$\pm$": "±", r"$\times$": "×"}
    lines = [[re.sub("|".join(map(re.escape, plain)), lambda m: plain[m[0]], cell) for cell in line] for line in lines]
    heading, *body = lines
    records = {record[1].split(" ")[0]: dict(zip(heading, record, strict=True)) for record in body}
    assert records["mag+fitnet"] == {"teacher → student": "resnet56 → resnet20"} | PRINTED
    assert {name: list(records[name].values())[1 : 1 + len(cells)] for name, cells in OTHERS.items()} == OTHERS


def test_csv_holds_every_value_unrounded_in_its_column(view: TableView, rows: list[Row], tmp_path: Path) -> None:
    frame = pd.read_csv(files.write(view, tmp_path)[0])
    record = frame.set_index("method").loc["mag+fitnet"].to_dict()
    record = {name: value for name, value in record.items() if not name.startswith((*KINDS, "settings"))}
    runs = [row for row in rows if row.run.method == "mag+fitnet"]
    assert record.pop("gain_sd") == pytest.approx(0.4358899)
    assert all(record.pop(f"{name}_sd") > 0 for name in GAINS if name != "gain")
    options = json.loads(record.pop("options"))
    assert options == json.loads(json.dumps(runs[0].run.options))
    assert json.loads(record.pop("learned")) == {"attention": 937.0}
    expected = {
        "table": "test/cifar100",
        "scale": "full",
        "teacher": "resnet56",
        "student": "resnet20",
        "teacher_network": "resnet56",
        "student_network": "resnet20",
        "label": "mag+fitnet",
        "metric": "top1",
        "selection": "last",
        "reported": 75.1,
        "reported_std": 0.2,
        "measured": pytest.approx(75.5),
        "sd": pytest.approx(0.6244998),
        "n": 3,
        "seeds": "0 1 2",
        "verdict": "reproduced",
        "difference": pytest.approx(0.4),
        "tolerance": pytest.approx(1.60012, abs=1e-4),
        **{name: pytest.approx(mean) for name, mean in GAINS.items()},
        **{f"{name}_n": 3 for name in GAINS},
        "agreement": pytest.approx(88.4),
        "agreement5": 97.5,
        "agreement_n": 3,
        "teacher_reported": 77.3,
        "teacher_measured": 77.0,
        "params": 12_340_000,
        "flops": 5.67e9,
        "images_per_second": 321.0,
        "step_seconds": 0.110,
        "prepare_seconds": pytest.approx(0.010 * runs[0].history[-1].steps),
        "data_wait": 0.23,
        "precision": "ieee",
        "time_over_none": pytest.approx(1.5),
        "time_over_kd": pytest.approx(0.120 / 0.088),
        "machine": "2-core x86",
        "runs": " ".join(row.id for row in runs),
        "source": "Table 1",
        "reported_by": "other",
        "reported_note": "read off",
    }
    empty = {"reason", "notes"}
    assert {name for name, value in record.items() if pd.isna(value)} == empty
    assert {name: value for name, value in record.items() if name not in empty} == expected


def test_a_line_whose_training_waited_for_data_says_so_in_a_footnote(view: TableView) -> None:
    marked = [record["throughput"] for block in view.blocks for record in block.records if "[" in record["throughput"]]
    note = view.footnotes.index("training waited for data in 23% of its time") + 1
    assert marked == [f"321 [{note}]"]


def test_paired_networks_of_mini_scale_are_those_of_the_csv(table: Table) -> None:
    row = make_row(table, table.pairs[0], KD, "mini")
    frame = files.csv_frame(table, collect(table, [row], "mini")).set_index("method")
    names = frame.loc["kd", ["teacher", "student", "teacher_network", "student_network", "n", "reason", "notes"]]
    assert list(names) == ["resnet56", "resnet20", "resnet20", "resnet8", 1, "mini", "a note on kd"]
