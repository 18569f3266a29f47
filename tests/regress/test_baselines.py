"""Kept rows: copied byte for byte, found again, and one a run where there are several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdbench.cli import app
from kdbench.errors import SpecError
from kdbench.records.row import Row
from kdbench.records.store import Store, read_row
from kdbench.regress.baselines import keep, latest, load
from kdbench.spec.schema import digest
from tests.helpers.altered import altered
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table

TABLE = fixed_table("dist/coco")


def a_row(seed: int = 0, value: float = 30.0) -> Row:
    return make_row(TABLE, TABLE.pairs[0], TABLE.methods[1], "mini", seed, value)


def test_rows_are_kept_by_commit_and_machine_byte_for_byte(tmp_path: Path) -> None:
    runs, root = tmp_path / "runs", tmp_path / "baselines"
    one, two = a_row(0), altered(a_row(1), commit="3f2ad11a0b1c+", machine="AMD EPYC 7763 x2")
    written = Store(runs).write(one).read_bytes()
    Store(runs).write(two)
    folders = keep(runs, root)
    assert {folder.name: count for folder, count in folders.items()} == {
        "000000000000-2-core-x86": 1,
        "3f2ad11a0b1c-modified-amd-epyc-7763-x2": 1,
    }
    assert (root / "000000000000-2-core-x86" / "rows" / f"{one.id}.json").read_bytes() == written
    assert sorted(row.id for row in load(root)[0]) == sorted([one.id, two.id])
    assert load(root / "3f2ad11a0b1c-modified-amd-epyc-7763-x2") == ([two], [])


@pytest.mark.parametrize("commit", ["../x", "../../../x", "/tmp/x", "", "..", "abc\n", "abc/../../x", "abc\0", "C:\\x"])
def test_a_commit_that_is_no_name_keeps_nothing_outside_the_folder(
    commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "here")
    good, bad = a_row(0), altered(a_row(1), machine="other")
    bad = bad.model_copy(update={"environment": bad.environment.model_copy(update={"commit": commit})})
    Store(Path("runs")).write(good)
    Store(Path("runs")).write(bad)  # with a checksum of what it says
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    done = CliRunner().invoke(app, ["baseline", "--results", "runs"])
    assert done.exit_code == 0 and f"left out: runs/{bad.id}/row.json: environment.commit: " in done.output
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    kept = Path("results/baselines").absolute() / "000000000000-2-core-x86" / "rows" / f"{good.id}.json"
    assert new == {kept}


def test_a_row_of_every_commit_stays(tmp_path: Path) -> None:
    runs, root = tmp_path / "runs", tmp_path / "baselines"
    for day, commit in enumerate(("aaaaaaaaaaaa", "bbbbbbbbbbbb"), 1):
        Store(runs).write(altered(a_row(), commit=commit, day=day))
        keep(runs, root)
    assert sorted(row.environment.commit for row in load(root)[0]) == ["aaaaaaaaaaaa", "bbbbbbbbbbbb"]


def test_the_latest_row_of_a_run_counts_and_before_it_one_of_the_machine() -> None:
    rows = [altered(a_row(), machine=machine, day=day) for machine, day in (("a", 1), ("b", 3), ("a", 2))]
    assert latest(rows) == [rows[1]]
    assert latest(rows, {"a"}) == [rows[2]]
    assert latest(rows, {"c"}) == [rows[1]]
    assert len(latest([*rows, a_row(1)])) == 2
    assert latest([rows[1], rows[0].model_copy(update={"id": "of an older spec"})]) == [rows[1]]


def test_a_row_of_a_time_when_specs_had_fewer_fields_is_read_with_their_defaults(tmp_path: Path) -> None:
    content = json.loads(a_row().model_dump_json())
    for recipe in (content["run"]["recipe"], content["run"]["teacher"]["recipe"]):
        del recipe["label_smoothing"]
        recipe["precision"] = "float32"  # as ieee was called
    bare = json.loads(json.dumps(content["run"]))
    for recipe in (bare["recipe"], bare["teacher"]["recipe"]):
        del recipe["name"], recipe["source"]
    content["id"] = digest(bare)
    path = tmp_path / "row.json"
    path.write_text(json.dumps(content))
    row = read_row(path)
    assert isinstance(row, Row)
    assert row.id != a_row().id and row.run == a_row().run


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_rows_is_one_error_that_says_what_to_do(make: bool, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    if make:
        folder.mkdir()
    with pytest.raises(SpecError, match=rf"{folder}: no .*kdbench run --results FOLDER"):
        load(folder)


def test_a_folder_of_nothing_but_broken_rows_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "0123").mkdir()
    (tmp_path / "0123" / "row.json").write_text("{}")
    with pytest.raises(SpecError, match=r"of 1 result row none is valid, .*0123/row\.json: id: Field required"):
        load(tmp_path)
