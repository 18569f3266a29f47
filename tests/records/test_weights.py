"""Rows of published weights: checked when they are read, and named after what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kdbench.records.row import Environment
from kdbench.records.row_file import InvalidRow
from kdbench.records.weights import (
    COMMITTED,
    WeightsRow,
    read_weights,
    read_weights_row,
    weights_folder,
    write_weights,
)
from kdbench.spec.normalisation import Normalisation
from kdbench.spec.recipe import PaddedCrop
from kdbench.spec.run import Data

ENVIRONMENT = Environment(
    commit="0" * 12, python="3.11", libraries={}, device="cpu", machine="x", threads=1, deterministic=True
)
DATA = Data(name="cifar100", fingerprint="c1fa", train_images=50_000, val_images=10_000, classes=100)


def a_row(**changes: Any) -> WeightsRow:
    values: dict[str, Any] = {
        "file": "r.pth", "sha256": "ab" * 32, "bytes": 3, "source": "x/y (MIT)", "licence": "MIT", "note": "",
        "task": "classification", "data": DATA, "network": "resnet20", "architecture": "resnet20", "fills": "",
        "teacher": "resnet56", "method": "kd", "metrics": {"top1": 70.5, "top5": 92.0}, "evaluator": "torch",
        "recorded": {"top1": 70.77}, "selection": "best", "image": PaddedCrop(), "notices": (),
        "normalisation": Normalisation(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), stated="of CRD"),
        "environment": ENVIRONMENT, "finished": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return WeightsRow(**values | changes)


def invalid(path: Path) -> InvalidRow:
    found = read_weights_row(path)
    assert isinstance(found, InvalidRow), found
    return found


def test_a_row_is_read_as_it_was_written(tmp_path: Path) -> None:
    row = a_row()
    path = write_weights(tmp_path, row)
    assert path.name == f"{'ab' * 8}-cifar100.json"
    assert read_weights([tmp_path]) == ([row], [])
    assert row.origin == "weights" and row.difference("top1") == pytest.approx(-0.27) and row.difference("top5") is None


def test_a_flipped_bit_anywhere_in_a_row_is_found(tmp_path: Path) -> None:
    path = write_weights(tmp_path, a_row())
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert invalid(path).reason
    path.write_bytes(whole[:-30])
    assert invalid(path).damaged


def test_a_row_under_the_name_of_another_is_found(tmp_path: Path) -> None:
    path = write_weights(tmp_path, a_row())
    other = path.rename(tmp_path / f"{'cd' * 8}-cifar100.json")
    assert "another row than the file's name says" in invalid(other).reason


def test_own_data_of_one_name_have_a_row_each(tmp_path: Path) -> None:
    for fingerprint in ("aa", "bb"):
        data = DATA.model_copy(update={"name": "../my data", "fingerprint": fingerprint})
        write_weights(tmp_path, a_row(data=data), own_data=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{'ab' * 8}-.._my_data-aa.json", f"{'ab' * 8}-.._my_data-bb.json"]
    rows, wrong = read_weights([tmp_path])
    assert len(rows) == 2 and not wrong


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metrics", {"top1": 101.0}),
        ("metrics", {"top1": float("nan")}),
        ("metrics", {}),
        ("recorded", {"top1": -1.0}),
        ("sha256", "../../etc"),
        ("file", "../secret.pt"),
        ("file", "a\x1b[2J"),
        ("bytes", -1),
        ("origin", "runs"),
        ("selection", "final"),
        ("note", "x" * 2001),
        ("network", ""),
        ("more", 1),
    ],
)
def test_impossible_values_are_refused_by_field(field: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        a_row(**{field: value})
    path = tmp_path / "x.json"
    path.write_text(json.dumps(a_row().model_dump(mode="json") | {field: value}))
    reason = invalid(path).reason
    assert reason.startswith(field) or "needs metrics" in reason or "JSON" in reason


def test_rows_of_other_versions_and_files_that_are_no_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(a_row().model_dump(mode="json")))
    assert invalid(path).reason.startswith("checksum")
    path.write_text(json.dumps(a_row().model_dump(mode="json") | {"schema_version": 9}))
    assert "schema_version: 9 is not 1" in invalid(path).reason and not invalid(path).damaged
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "is a device" in invalid(path).reason
    rows, wrong = read_weights([tmp_path, tmp_path / "nothing"])
    assert not rows and [each.path for each in wrong] == [path]


def test_the_users_rows_come_before_committed_ones_and_a_folder_is_read_once(tmp_path: Path) -> None:
    write_weights(tmp_path / "mine", a_row(note="mine"))
    write_weights(tmp_path / "theirs", a_row(note="theirs"))
    (tmp_path / "theirs" / "bad.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    rows, wrong = read_weights([tmp_path / "mine", tmp_path / "theirs", tmp_path / "link"])
    assert [row.note for row in rows] == ["mine"] and len(wrong) == 1


def test_rows_are_beside_a_folder_that_is_called_runs_and_in_others() -> None:
    assert weights_folder(Path("results/runs")) == Path("results/weights")
    assert weights_folder(Path("out")) == Path("out/weights")


RECORDED = {
    "cifar100_resnet56-f2eff4c8.pt": 72.63,
    "resnet20_kd_from_resnet56.pth": 70.77,
    "rdamkd_resnet56_resnet20.ckpt": 72.42,
    "rdamkd_resnet110_resnet32.ckpt": 74.59,
    "rdamkd_wrn_40_2_wrn_40_1.ckpt": 75.59,
}


def test_the_committed_rows_are_valid_and_near_what_is_recorded() -> None:
    rows, wrong = read_weights([COMMITTED])
    assert not wrong
    measured = {row.file: row.metrics["top1"] for row in rows if row.file in RECORDED}
    assert measured == pytest.approx(RECORDED, abs=0.03)
    kd = next(row for row in rows if row.file == "resnet20_kd_from_resnet56.pth")
    assert (kd.method, kd.teacher, kd.network, kd.selection) == ("kd", "resnet56", "resnet20", "best")
