"""Entries that requests added to tables, kept beside their runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.errors import SpecError
from kdbench.grid.choose import with_entries
from kdbench.records.added import added_files, keep_added, read_added
from kdbench.spec.table import MethodEntry, Networks, Pair
from tests.helpers.tables import cifar_table

TABLE = cifar_table("none", "kd")
PAIR = "resnet56->resnet20"


def entry(label: str, tau: float) -> MethodEntry:
    return MethodEntry(method="dist", options={"tau": tau}, label=label, added=True)


def test_entries_are_kept_beside_those_of_earlier_requests_and_the_latest_of_a_name_counts(tmp_path: Path) -> None:
    assert read_added(tmp_path, TABLE) == ({}, {})
    keep_added(tmp_path, TABLE, {PAIR: [entry("a", 1.0), entry("b", 2.0)]}, {"mine": Path("/x/mine.py")})
    keep_added(tmp_path, TABLE, {PAIR: [entry("b", 3.0)]}, {})
    assert read_added(tmp_path, TABLE)[0] == {PAIR: (entry("a", 1.0), entry("b", 3.0))}
    assert added_files(tmp_path) == ({"mine": Path("/x/mine.py")}, set())
    assert read_added(tmp_path, TABLE.model_copy(update={"name": "other"})) == ({}, {})


def test_pairs_are_kept_with_the_files_of_their_networks(tmp_path: Path) -> None:
    names = Networks(teacher="resnet56", student="net.py:build")
    pair = Pair(teacher="resnet56", student="net.py:build", networks=names, mini=names, added=True)
    none = {"resnet56->net.py:build": [MethodEntry(method="none")]}
    keep_added(tmp_path, TABLE, none, {}, {"resnet56->net.py:build": pair}, [Path("/x/net.py")])
    keep_added(tmp_path, TABLE, {PAIR: [entry("a", 1.0)]}, {})
    entries, pairs = read_added(tmp_path, TABLE)
    assert pairs == {"resnet56->net.py:build": pair} and entries.keys() == {PAIR, "resnet56->net.py:build"}
    assert added_files(tmp_path) == ({}, {Path("/x/net.py")})
    shown = with_entries(TABLE, entries, pairs)
    assert [pair.student for pair in shown.pairs] == ["resnet20", "net.py:build"]
    assert [entry.method for entry in shown.entries(shown.pairs[1])] == ["none"]


def test_nothing_is_written_without_entries(tmp_path: Path) -> None:
    keep_added(tmp_path, TABLE, {PAIR: []}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"table": "x", "entries": {"p": [{"wrong": "kd"}]}}'])
def test_a_damaged_file_is_named_with_the_way_out(content: str, tmp_path: Path) -> None:
    keep_added(tmp_path, TABLE, {PAIR: [entry("a", 1.0)]}, {})
    [file] = (tmp_path / "added").iterdir()
    file.write_text(content)
    with pytest.raises(SpecError, match="is damaged; it lists methods that were added with --methods; delete it"):
        read_added(tmp_path, TABLE)
