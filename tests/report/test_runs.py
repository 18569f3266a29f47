"""`kdbench runs` and `kdbench show`: what they print of a folder of runs."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from kdbench.errors import SpecError
from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.report.runs import find, print_run, print_runs
from kdbench.spec.table import MethodEntry
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table

ENTRIES = (
    MethodEntry(method="none"),
    MethodEntry(method="kd", options={"temperature": 2.0}, label="two"),
    MethodEntry(method="kd", options={"temperature": 4.0}, label="four"),
)


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Three rows, an hour apart, in a folder; the last is stale."""
    table = cifar_table(*ENTRIES)
    made = []
    for i, entry in enumerate(table.methods):
        finished = (datetime.now(UTC) - timedelta(hours=5 - i)).isoformat(timespec="seconds")
        row = make_row(table, table.pairs[0], entry, "mini", 0, 30.0 + i, finished=finished)
        made.append(row.model_copy(update={"code": "0" * 16}) if i == 2 else row)
        Store(tmp_path).write(made[-1])
    return made


def printed(what: object, *arguments: object, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    what(*arguments, console)  # type: ignore[operator]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_runs_are_listed_latest_first_and_variants_told_apart(rows: list[Row], tmp_path: Path) -> None:
    begun = tmp_path / ("f" * 16)
    begun.mkdir()
    (begun / "checkpoint.pt").write_bytes(b"x")
    (tmp_path / ("e" * 16)).mkdir()
    lines = printed(print_runs, tmp_path)
    assert [line.split()[0] for line in lines[2:6]] == ["ffffffff", *(row.id[:8] for row in reversed(rows))]
    assert "begun" in lines[2]
    assert "kd:temperature=4" in lines[3] and "done, stale" in lines[3] and "top1 32.00" in lines[3]
    assert "kd:temperature=2" in lines[4] and "stale" not in lines[4] and lines[4].rstrip().endswith("4 h")
    assert lines[6].startswith(f"4 runs in {tmp_path}")


def test_a_run_is_found_by_its_folder_and_by_its_link(rows: list[Row], tmp_path: Path) -> None:
    link = tmp_path / "by-name" / "resnet56-resnet20-kd-seed0"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(Path("..") / rows[1].id)
    for name in (str(tmp_path / rows[1].id), str(link), link.name, rows[1].id[:8]):
        assert find(tmp_path, name).id == rows[1].id


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_narrow_page_loses_nothing(width: int, rows: list[Row], tmp_path: Path) -> None:
    lines = printed(print_runs, tmp_path, width=width)
    assert max(map(len, lines)) <= width
    assert all(row.id[:4] in "".join(lines) for row in rows)


def test_a_run_is_shown_with_its_specification_scores_epochs_and_files(rows: list[Row], tmp_path: Path) -> None:
    row = rows[1]
    text = "\n".join(printed(print_run, tmp_path, row.id[:6]))
    assert f"run {row.id}" in text and str(tmp_path / row.id) in text
    assert f"name: resnet20 -> resnet8 kd:temperature=2 seed {row.run.seed}" in text
    assert "last: top1 31.00" in text
    assert "temperature: 2.0" in text and "name: cifar_mini" in text
    assert f"{row.history[-1].steps}" in text and "row.json" in text
    assert "stale: its method's code has changed" in "\n".join(printed(print_run, tmp_path, rows[2].id))


def test_an_empty_folder_and_one_that_is_not_there_have_no_runs(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert printed(print_runs, folder)[-1].startswith(f"0 runs in {folder}")


@pytest.mark.parametrize(("start", "message"), [("zz", "no run in"), ("", "no run in"), ("../x", "no run in")])
def test_a_run_that_is_not_there_is_one_message(start: str, message: str, rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        find(tmp_path, start)


def test_a_beginning_of_several_names_them(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / (rows[0].id[:8] + "0" * 8)).mkdir()
    (tmp_path / (rows[0].id[:8] + "0" * 8) / "checkpoint.pt").touch()
    with pytest.raises(SpecError, match=f"2 runs begin with {rows[0].id[:8]!r}.*give more digits"):
        find(tmp_path, rows[0].id[:8])
    assert find(tmp_path, rows[0].id).row == rows[0]
