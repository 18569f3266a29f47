"""Runs of another folder: what is added, what is kept, what is left out and why."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from kdbench.errors import SpecError
from kdbench.launch.merge import merge
from kdbench.records.added import keep_added, read_added
from kdbench.records.leases import Leases
from kdbench.records.row import Row
from kdbench.records.store import Store, read_rows
from kdbench.spec.table import MethodEntry
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table

TABLE = cifar_table("none", "kd")
PAIR = TABLE.pairs[0]


def row(seed: int = 0, value: float = 60.0, method: int = 1, weights: bytes = b"weights", **fields: str) -> Row:
    made = make_row(TABLE, PAIR, TABLE.methods[method], "mini", value=value, seed=seed, **fields)  # type: ignore[arg-type]
    if made.student is None:
        return made
    student = made.student.model_copy(update={"sha256": hashlib.sha256(weights).hexdigest()})
    return made.model_copy(update={"student": student})


def keep(folder: Path, *rows: Row, weights: bytes = b"weights") -> Path:
    for each in rows:
        Store(folder).write(each)
        if each.student is not None:
            (folder / each.student.file).write_bytes(weights)
    return folder


def merged(source: Path, target: Path) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return merge(source, target, lines.append), lines


def test_runs_that_are_missing_are_added_whole_and_again_changes_nothing(tmp_path: Path) -> None:
    theirs, ours = keep(tmp_path / "theirs", row(0), row(1, machine="H100")), keep(tmp_path / "ours", row(0))
    (theirs / row(1).id / "checkpoint.pt").write_bytes(b"not for others")
    good, lines = merged(theirs, ours)
    assert good and lines[0] == f"1 run added to {ours}, 1 finished in both"
    assert lines[1] == "machine: H100 (1 row); speed is compared within one machine alone"
    assert {each.id for each in read_rows([ours])[0]} == {row(0).id, row(1).id}
    added = ours / row(1).id
    assert sorted(path.name for path in added.iterdir()) == ["row.json", "student.pt"]
    assert (added / "row.json").read_bytes() == (theirs / row(1).id / "row.json").read_bytes()
    assert merged(theirs, ours) == (True, [f"0 runs added to {ours}, 2 finished in both"])


def test_a_run_that_is_finished_in_both_stays_and_another_score_is_named(tmp_path: Path) -> None:
    theirs, ours = keep(tmp_path / "theirs", row(value=61.0)), keep(tmp_path / "ours", row(value=60.0))
    good, lines = merged(theirs, ours)
    assert good and "top1 60.00 here and 61.00 there" in lines[0]
    assert read_rows([ours])[0] == [row(value=60.0)]


def test_a_finished_run_replaces_one_that_failed_here(tmp_path: Path) -> None:
    theirs, ours = keep(tmp_path / "theirs", row()), keep(tmp_path / "ours", row(status="failed"))
    assert merged(theirs, ours)[0]
    assert read_rows([ours])[0] == [row()]


def test_what_cannot_be_used_is_left_out_with_the_reason_and_the_rest_is_added(tmp_path: Path) -> None:
    theirs = keep(tmp_path / "theirs", row(0), row(1, status="failed"))
    keep(theirs, row(2), weights=b"other weights")
    (theirs / ("ab" * 8)).mkdir()
    (theirs / ("ab" * 8) / "row.json").write_text("{")
    good, lines = merged(theirs, tmp_path / "ours")
    assert not good and "1 run added" in lines[0]
    reasons = "\n".join(lines)
    assert "seed 1: failed there" in reasons
    assert "is not the file that was measured (its sha256 differs" in reasons
    assert f"{'ab' * 8}{os.sep}row.json: " in reasons


def test_a_run_that_is_being_trained_here_is_left_alone(tmp_path: Path) -> None:
    theirs, ours = keep(tmp_path / "theirs", row()), tmp_path / "ours"
    ours.mkdir()
    with Leases(ours) as leases:
        assert leases.take(row().id) is None
        good, lines = merged(theirs, ours)
    assert not good and lines[1].endswith("is being trained here")
    assert not (ours / row().id / "row.json").exists()


def test_a_row_of_another_version_here_is_not_replaced(tmp_path: Path) -> None:
    theirs, file = keep(tmp_path / "theirs", row()), Store(tmp_path / "ours").row_file(row().id)
    file.parent.mkdir(parents=True)
    file.write_text('{"schema_version": 99}')
    good, lines = merged(theirs, tmp_path / "ours")
    assert not good and "99 is not" in lines[1] and "move it away" in lines[1]
    assert file.read_text() == '{"schema_version": 99}' and len(list(file.parent.iterdir())) == 1


def test_methods_that_were_added_to_tables_are_merged(tmp_path: Path) -> None:
    theirs, ours = keep(tmp_path / "theirs", row()), tmp_path / "ours"
    entries = [MethodEntry(method="kd", label=name, added=True) for name in ("a", "b")]
    keep_added(theirs, TABLE, {"resnet56->resnet20": entries[:1]}, {"mine": Path("/x/mine.py")})
    keep_added(ours, TABLE, {"resnet56->resnet20": entries[1:]}, {})
    merged(theirs, ours)
    assert read_added(ours, TABLE)[0] == {"resnet56->resnet20": tuple(entries)}


def test_folders_that_cannot_be_merged_are_refused(tmp_path: Path) -> None:
    whole = keep(tmp_path / "whole" / "results" / "runs", row())
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "missing", "no such folder; give a folder of runs"),
        (tmp_path / "empty", "has no run"),
        (tmp_path / "whole", f"did you mean {whole}"),
        (whole, "is the folder of runs itself"),
    ):
        with pytest.raises(SpecError, match=message):
            merge(source, whole, print)
