"""`kdbench compare` and `kdbench baseline`: exit codes, folders, and errors as one message."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdbench import cli
from kdbench.cli import app, main
from kdbench.records.row import Row
from kdbench.records.store import Store
from tests.helpers.altered import altered
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table

TABLE = fixed_table("dist/cifar100")
NONE, KD = TABLE.methods[:2]


def rows(
    value: float, day: int, entry: object = KD, seeds: int = 5, factor: float = 1.0, machine: str = "a"
) -> list[Row]:
    made = [make_row(TABLE, TABLE.pairs[0], entry, "full", seed, value + 0.1 * seed) for seed in range(seeds)]  # type: ignore[arg-type]
    return [altered(row, day=day, factor=factor, machine=machine, commit=f"{day:012d}") for row in made]


def written(folder: Path, rows: list[Row]) -> Path:
    for row in rows:
        Store(folder).write(row)
    return folder


def compared(tmp_path: Path, base: list[Row], head: list[Row], *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        app, ["compare", *(str(written(tmp_path / n, r)) for n, r in (("b", base), ("h", head))), *words]
    )
    return done.exit_code, done.stdout


NEAR = 73.05

CASES = {
    "nothing changed": (rows(73, 1), rows(NEAR, 2), 0, "accuracy: 1 unchanged"),
    "better": (rows(73, 1), rows(76, 2), 0, "accuracy: 1 improved"),
    "worse": (rows(73, 1), rows(70, 2), 1, "accuracy: 1 regressed"),
    "slower": (rows(73, 1), rows(NEAR, 2, factor=1.3), 1, "speed: 1 regressed"),
    "another machine": (rows(73, 1), rows(NEAR, 2, factor=9, machine="b"), 0, "speed: 1 not measured"),
    "three seeds": (rows(73, 1, seeds=3), rows(NEAR, 2, seeds=3), 2, "accuracy: 1 unsure"),
    "worse and unsure": (rows(73, 1) + rows(70, 1, NONE, 1), rows(70, 2) + rows(NEAR, 2, NONE, 1), 1, "regressed"),
    "nothing in common": (rows(73, 1), rows(70, 2, NONE), 2, "accuracy: 2 not measured"),
    "not run again": (rows(73, 1), rows(73, 1), 2, "accuracy: 1 not measured (1 HEAD's rows are those of BASE"),
}


@pytest.mark.parametrize("case", CASES)
def test_exit_codes_tell_regressed_from_unsure(case: str, tmp_path: Path) -> None:
    base, head, code, said = CASES[case]
    found, text = compared(tmp_path, base, head)
    assert (found, said in text) == (code, True), text


def test_changed_losses_are_unsure(tmp_path: Path) -> None:
    head = rows(NEAR, 2)
    moved = [
        row.model_copy(update={"history": tuple(e.model_copy(update={"losses": {"task": 9.0}}) for e in row.history)})
        for row in head
    ]
    code, text = compared(tmp_path, rows(73, 1), moved)
    assert (code, "accuracy: 1 unchanged" in text, "losses: 1 unsure" in text) == (2, True, True), text


def test_every_cell_is_printed_on_demand(tmp_path: Path) -> None:
    assert "wrn_40_1 kd" not in compared(tmp_path, rows(73, 1), rows(NEAR, 2))[1]
    assert "wrn_40_1 kd" in compared(tmp_path, rows(73, 1), rows(NEAR, 2), "--all")[1]


def test_broken_rows_are_listed_and_the_rest_is_compared(tmp_path: Path) -> None:
    broken = tmp_path / "h" / "0123" / "row.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{}")
    code, text = compared(tmp_path, rows(73, 1), rows(NEAR, 2))
    assert code == 0 and "0123/row.json: id: Field required" in " ".join(text.split())


def test_a_baseline_is_kept_and_compared_with_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "BASELINES", tmp_path / "baselines")
    first, then, now = (
        written(tmp_path / str(day), rows(value, day)) for day, value in ((1, 70.0), (2, 73.0), (3, 70.1))
    )
    for folder in (first, then):
        done = CliRunner().invoke(app, ["baseline", "--results", str(folder)])
        assert done.exit_code == 0 and done.stdout.endswith("-a: 5 rows\n")
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "baselines"), str(now)])
    assert done.exit_code == 1, done.stdout  # with the last of them


@pytest.mark.parametrize(
    "words", [["compare", "nowhere", "."], ["compare", ".", "nowhere"], ["baseline", "--results", "nowhere"]]
)
def test_a_folder_that_is_not_there_is_one_error(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(written(tmp_path, rows(73, 1, seeds=1)))
    monkeypatch.setattr(sys, "argv", ["kdbench", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: nowhere: no such folder; name one of runs (`kdbench run --results FOLDER`)")
    assert error.count("\n") == 1


def test_plots_draw_the_history_of_kept_rows_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "BASELINES", tmp_path / "baselines")
    then, now = (written(tmp_path / str(day), rows(70.0, day, NONE, 1)) for day in (1, 2))
    assert CliRunner().invoke(app, ["baseline", "--results", str(then)]).exit_code == 0
    out = tmp_path / "plots"
    done = CliRunner().invoke(app, ["plots", TABLE.name, "--results", str(now), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert {"dist-cifar100-history.png", "dist-cifar100-history.svg"} <= {path.name for path in out.iterdir()}
