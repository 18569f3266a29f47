"""Links to runs by name: readable, right after a move, and never read as runs."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kdbench.records.by_name import FOLDER, link_name, link_runs
from kdbench.records.row import Row
from kdbench.records.store import Store, read_all, row_files
from kdbench.report.runs import listed
from tests.helpers.engines import local
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table

ID = "0123456789abcdef"


@pytest.fixture
def row() -> Row:
    table = fixed_table("dist/coco")
    return make_row(table, table.pairs[0], table.methods[1], "mini")


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("resnet56 -> resnet20 kd:tau=2.0 seed 1", "resnet56-resnet20-kd-tau=2.0-seed1-01234567"),
        ("detectron2:COCO/a.yaml -> b dist+mimic seed 0", "detectron2-COCO-a.yaml-b-dist+mimic-seed0-01234567"),
        ("../../etc/passwd", "etc-passwd-01234567"),
        ("méthode \N{SNOWMAN}\n* ?", "m-thode-01234567"),
        ("x" * 400, f"{'x' * 150}-01234567"),
    ],
)
def test_names_are_safe_on_file_systems(name: str, link: str) -> None:
    assert link_name(name, ID) == link


def test_links_lead_to_runs_after_a_move_and_are_not_read_as_runs(row: Row, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    store.write(row)
    before = row_files(store.root)
    link_runs(store.root, {row.id: "a -> b dist seed 0", "f" * 16: "that has no folder"})
    assert row_files(store.root) == before and read_all([store.root]) == ([row], [])
    assert [run.id for run in listed(store.root)] == [row.id]
    store.root.rename(tmp_path / "moved")
    link = tmp_path / "moved" / FOLDER / f"a-b-dist-seed0-{row.id[:8]}"
    assert os.listdir(link.parent) == [link.name]
    assert link.resolve() == (tmp_path / "moved" / row.id).resolve()
    shutil.copytree(tmp_path / "moved", tmp_path / "copy")  # with the links' targets in their place
    assert read_all([tmp_path / "copy"]) == ([row], [])


def test_a_run_keeps_its_first_link_and_a_deleted_one_loses_it(row: Row, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(row)
    link_runs(tmp_path, {row.id: "first"})
    link_runs(tmp_path, {row.id: "second"})
    assert os.listdir(tmp_path / FOLDER) == [f"first-{row.id[:8]}"]
    shutil.rmtree(store.folder(row.id))
    link_runs(tmp_path, {})
    assert os.listdir(tmp_path / FOLDER) == []


def test_several_processes_link_at_once(tmp_path: Path) -> None:
    names = {f"{i:016x}"[::-1]: f"run {i}" for i in range(60)}
    for run_id in names:
        (tmp_path / run_id).mkdir()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(link_runs, tmp_path, names) for _ in range(8)]:
            done.result()
    assert sorted(os.listdir(tmp_path / FOLDER)) == sorted(link_name(name, run_id) for run_id, name in names.items())


def test_a_file_system_without_links_is_logged_once(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(self: Path, target: Path, target_is_directory: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refused)
    driver = local(tmp_path)
    driver.store.write(row)
    for _ in range(2):
        driver._link([row.run])
    told = capsys.readouterr().out
    assert told.count("no links by name (Operation not permitted); `kdbench runs` lists the runs") == 1


def test_without_any_run_nothing_is_linked_nor_created(tmp_path: Path) -> None:
    link_runs(tmp_path / "missing", {})
    link_runs(tmp_path, {})
    assert not list(tmp_path.iterdir())
