"""Epochs as arrays: the same from a file as from memory, and what is invalid is named."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from kdbench.errors import StoreError
from kdbench.records.history import Epoch, History
from kdbench.records.series import Series, series

METRICS = {"top1": 50.0}


def epochs(count: int = 40, skipped: int = 0) -> list[Epoch]:
    """Epochs of which each `skipped`-th has no metric."""
    made = []
    for k in range(1, count + 1):
        metrics = {} if skipped and k % skipped == 0 else METRICS
        losses = {"task": 1 / k, "kd": -2.0 * k} if k > 3 else {"task": 1.0 / k}
        made.append(Epoch(epoch=k, steps=7 * k, lr=0.1, losses=losses, metrics=metrics))
    return made


def in_file(path: Path, text: str) -> History:
    path.write_text(text)
    return History(path, zlib.crc32(text.encode()), (0, len(text)), 1)


def text(of: list[Epoch]) -> str:
    return f"[{','.join(each.model_dump_json() for each in of)}]"


def assert_equal(one: Series, other: Series) -> None:
    for name in ("epoch", "steps"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    for name in ("losses", "metrics"):
        a, b = getattr(one, name), getattr(other, name)
        assert list(a) == list(b)
        assert all(np.array_equal(a[key], b[key], equal_nan=True) for key in a)


@pytest.mark.parametrize("skipped", [0, 2])
def test_a_history_in_a_file_has_the_columns_of_its_epochs(skipped: int, tmp_path: Path) -> None:
    found = series(in_file(tmp_path / "row.json", text(epochs(skipped=skipped))))
    assert_equal(found, series(epochs(skipped=skipped)))
    assert found.epoch.tolist() == list(range(1, 41)) and found.steps[1] == 14
    assert np.isnan(found.losses["kd"][:3]).all() and found.losses["kd"][3] == -8.0
    assert np.isnan(found.metrics["top1"]).sum() == (20 if skipped else 0)


def test_no_epoch_is_no_column() -> None:
    assert series([]).epoch.size == 0 and series([]).losses == {}


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('"top1":50.0', '"top1":150.0', "history.0.metrics.top1"),
        ('"top1":50.0', '"top1":"50"', "history.0.metrics.top1"),
        ('"top1":50.0', '"top1":true', "history.0.metrics.top1"),
        ('"task":1.0', '"task":1e200', "history.0.losses.task"),
        ('"task":1.0', '"task":NaN', "history"),
        ('"steps":7,', '"steps":-7,', "history.0.steps"),
        ('"lr":0.1', '"lr":-0.1', "history.0.lr"),
        ('"lr":0.1', '"lrs":0.1', "history.0.lr"),
        ('"epoch":1,', '"epoch":1.5,', "history.0.epoch"),
    ],
)
def test_an_invalid_epoch_is_named(old: str, new: str, where: str, tmp_path: Path) -> None:
    whole = text(epochs())
    assert old in whole
    with pytest.raises(StoreError, match=rf"row\.json: {where}"):
        series(in_file(tmp_path / "row.json", whole.replace(old, new, 1)))


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    history = in_file(tmp_path / "row.json", text(epochs()))
    history.path.write_text(text(epochs(39)))
    with pytest.raises(StoreError, match="changed while it was in use"):
        series(history)
