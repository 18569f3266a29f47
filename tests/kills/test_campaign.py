"""A short campaign of kills; `python -m tests.kills.campaign` is the long one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kdbench.records.row import Row
from kdbench.records.store import Store
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table
from tests.kills import campaign
from tests.kills.campaign import differences, run_killed

TABLE = fixed_table("dist/coco")


def test_a_grid_that_is_killed_ends_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One student and one kill: starting processes takes nearly all of the time, and minutes on a busy machine.
    monkeypatch.setitem(campaign.GRIDS, "classification", ["dist/cifar100", "--methods", "none"])
    outcome = run_killed("classification", tmp_path / "runs", 1, random.Random(1))
    assert (outcome.kills, outcome.problems) == (1, [])


def a_row(value: float = 30.0) -> Row:
    return make_row(TABLE, TABLE.pairs[0], TABLE.methods[1], "mini", 0, value)


def test_the_campaign_finds_what_is_lost_different_damaged_or_left_over(tmp_path: Path) -> None:
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    row = a_row()
    whole.write(row)
    assert differences(whole.root, parts.root) == [f"{row.run.display_name}: lost"]
    path = parts.write(a_row(31.0))
    assert differences(whole.root, parts.root) == [f"{row.run.display_name}: differs"]
    parts.write(row.model_copy(update={"environment": row.environment.model_copy(update={"commit": "abc"})}))
    assert differences(whole.root, parts.root) == []  # a commit between the two trainings is no difference
    (path.parent / "checkpoint.pt").touch()
    assert differences(whole.root, parts.root) == [f"left over: {row.id}/checkpoint.pt"]
    path.write_bytes(path.read_bytes()[:-9])
    assert len(differences(whole.root, parts.root)) == 3
