"""Result rows on disk: written atomically, and valid or reported when read."""

from __future__ import annotations

import errno
import gc
import json
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kdbench.errors import StoreError
from kdbench.records.row import Row
from kdbench.records.store import InvalidRow, Store, read_all, read_row, read_rows, row_files, write_atomically
from kdbench.spec.recipe import load_recipe
from tests.helpers.rows import DIGITS, make_row
from tests.helpers.tables import fixed_table


def a_row(seed: int = 0, **more: Any) -> Row:
    table = fixed_table("dist/coco")
    return make_row(table, table.pairs[0], table.methods[1], "mini", seed, **more)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def test_a_row_comes_back_as_it_was_written(store: Store) -> None:
    row = a_row()
    path = store.write(row)
    assert path == store.root / row.id / "row.json"
    assert store.row(row.id) == row
    assert read_rows([store.root]) == ([row], [])
    assert read_rows([store.root])[0][0].run.id == row.id


def test_a_run_that_never_finished_has_no_row(store: Store) -> None:
    assert store.row("0" * 16) is None
    assert read_rows([store.root]) == ([], [])


def test_a_row_written_again_takes_the_place_of_the_first_and_leaves_nothing_else(store: Store) -> None:
    store.write(a_row(value=20.0))
    store.write(a_row(value=30.0))
    (row,), invalid = read_rows([store.root])
    assert row.metrics is not None and row.metrics.last["ap"] == 30.0 and not invalid
    assert [path.name for path in store.folder(row.id).iterdir()] == ["row.json"]


def test_rows_are_collected_from_several_folders_and_counted_once(store: Store, tmp_path: Path) -> None:
    one, two = a_row(0), a_row(1)
    store.write(one)
    Store(tmp_path / "others").write(one)
    shipped = tmp_path / "results" / "akd" / "rows"
    shipped.mkdir(parents=True)
    (shipped / "any.json").write_text(two.model_dump_json())
    rows, invalid = read_rows([store.root, tmp_path / "others", tmp_path / "results"])
    assert sorted(row.id for row in rows) == sorted([one.id, two.id]) and not invalid


def test_of_two_rows_of_a_run_the_one_in_the_first_folder_is_read(store: Store, tmp_path: Path) -> None:
    mine, shipped = a_row(value=20.0), a_row(value=30.0)
    store.write(mine)
    Store(tmp_path / "shipped").write(shipped)
    assert mine.id == shipped.id
    assert read_rows([store.root, tmp_path / "shipped"]) == ([mine], [])
    assert read_rows([tmp_path / "shipped", store.root]) == ([shipped], [])


def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Make one call of the operating system fail from now on."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make it writable, or choose another folder with --results"),
        (errno.EACCES, "make it writable, or choose another folder with --results"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_keeps_the_old_row_and_says_what_to_do(
    call: str, number: int, mend: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = a_row(value=20.0)
    path = store.write(old)
    with monkeypatch.context() as patch:
        failing(patch, call, number)
        with pytest.raises(StoreError) as caught:
            store.write(a_row(value=30.0))
    assert str(caught.value) == f"cannot write {path}: {os.strerror(number)}; {mend}"
    assert store.row(old.id) == old
    assert [file.name for file in path.parent.iterdir()] == ["row.json"]


def test_a_first_write_that_fails_leaves_no_file_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "fsync", errno.ENOSPC)
    with pytest.raises(StoreError):
        store.write(a_row())
    assert not [path for path in store.root.rglob("*") if path.is_file()]
    assert read_rows([store.root]) == ([], [])


def test_a_file_is_whole_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    replace = os.replace

    def look(source: Any, target: Any) -> None:
        assert not Path(target).exists()
        seen.append(Path(source).read_bytes())
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    write_atomically(tmp_path / "file", b"whole")
    assert seen == [b"whole"] and (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("below", ["runs", "runs/deeper"])
def test_a_folder_that_cannot_be_made_is_named_with_the_mend(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / below)
    with pytest.raises(StoreError, match=r"cannot write .*/file/.*row\.json: .*; .*choose another folder"):
        store.write(a_row())
    assert (tmp_path / "file").read_text() == "in the way"


def truncated(row: Row) -> str:
    text = row.model_dump_json()
    return text[: len(text) // 2]


def edited(**changes: Any) -> Callable[[Row], str]:
    """Set fields of the JSON ("a.b" reaches inside); `...` removes one."""

    def edit(row: Row) -> str:
        content = json.loads(row.model_dump_json())
        for place, value in changes.items():
            *outer, last = place.split("__")
            target = content
            for part in outer:
                target = target[part]
            if value is ...:
                del target[last]
            else:
                target[last] = value
        return json.dumps(content)

    return edit


BROKEN: dict[str, tuple[Callable[[Row], str], str]] = {
    "empty": (lambda row: "", "Invalid JSON"),
    "truncated": (truncated, "Invalid JSON"),
    "not JSON": (lambda row: "row", "Invalid JSON"),
    "a list": (lambda row: "[]", "Input should be an object"),
    "unknown field": (edited(colour="red"), "colour: Extra inputs are not permitted"),
    "unknown field inside": (edited(metrics__worst=1), "metrics.worst: Extra inputs are not permitted"),
    "missing field": (edited(environment=...), "environment: Field required"),
    "missing field inside": (edited(run__recipe__lr=...), "run.recipe.lr: Field required"),
    "wrong status": (edited(status="finished"), "status: Input should be 'done', 'skipped'"),
    "wrong type": (edited(cost__params="many"), "cost.params: Input should be a valid integer"),
    "no number": (edited(metrics__last={"ap": None}), "metrics.last.ap: Input should be a valid number"),
    "edited option": (edited(run__options__tau=9.0), "is not the hash of its spec"),
    "edited teacher": (edited(run__teacher__recipe__lr=0.5), "is not the hash of its spec"),
    "edited seed": (edited(run__seed=3), "is not the hash of its spec"),
    "edited id": (edited(id="0" * 16), "id 0000000000000000 is not the hash of its spec"),
    "other schema": (edited(schema_version=2), "schema_version: 2 is not 1"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_does_not_fit_is_reported_and_the_others_are_read(how: str, store: Store) -> None:
    good, bad = a_row(0), a_row(1)
    store.write(good)
    path = store.write(bad)
    change, words = BROKEN[how]
    path.write_text(change(bad))
    rows, invalid = read_rows([store.root])
    assert rows == [good]
    assert [invalid_row.path for invalid_row in invalid] == [path]
    assert words in invalid[0].reason
    assert store.row(bad.id) is None  # so that the run is done again


def test_an_edited_number_still_fits_since_only_the_spec_is_hashed(store: Store) -> None:
    row = a_row()
    path = store.write(row)
    path.write_text(edited(metrics__last={"ap": 29.0})(row))
    found = read_row(path)
    assert isinstance(found, Row) and found.metrics is not None and found.metrics.last == {"ap": 29.0}


def test_a_row_of_before_there_was_anything_learned_is_read(store: Store) -> None:
    row = a_row()
    path = store.write(row)
    path.write_text(edited(learned=...)(row))
    assert read_row(path) == row and row.learned == {}


def test_rows_read_together_share_their_parts_and_are_those_read_one_by_one(store: Store) -> None:
    table = fixed_table("dist/coco")
    pair, entry = table.pairs[0], table.methods[1]
    data = [DIGITS.model_copy(update={"options": options}) for options in ({}, {"fraction": 1}, {"fraction": 1.0})]
    recipes = [load_recipe("coco_mini", changes) for changes in ({}, {"source": "ours"}, {"lr": 0.02})]
    (store.root / "rows").mkdir(parents=True)
    for i, (seed, own, recipe) in enumerate(product((0, 1), data, recipes)):
        row = make_row(table, pair, entry, "mini", seed, data=own, recipe=recipe)
        (store.root / "rows" / f"{i:02}.json").write_text(row.model_dump_json())
    together, invalid = read_all([store.root])
    alone = [read_row(path) for path in row_files(store.root)]
    assert len(alone) == 2 * 3 * 3 and not invalid
    assert [str(row) for row in together] == [str(row) for row in alone]  # == would not tell 1 from 1.0
    assert len({id(row.run.data) for row in together}) == 3
    assert len({id(row.run.recipe) for row in together}) == 3
    assert len({id(row.run.teacher) for row in together}) == len({str(row.run.teacher) for row in together}) == 3


@pytest.mark.parametrize("collecting", [True, False])
def test_reading_rests_pythons_garbage_collector_and_leaves_it_as_it_was(
    collecting: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def looking(root: Path) -> list[Path]:
        seen.append(gc.isenabled())
        return row_files(root)

    monkeypatch.setattr("kdbench.records.store.row_files", looking)
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        read_rows([store.root])
        assert gc.isenabled() == collecting
        assert seen == [False]
    finally:
        (gc.enable if before else gc.disable)()


def test_bytes_that_are_no_text_and_a_folder_in_place_of_a_row_are_reported(store: Store) -> None:
    for name, make in (("a", lambda p: p.write_bytes(b"\xff\x00{")), ("b", lambda p: p.mkdir())):
        path = store.row_file(name)
        path.parent.mkdir(parents=True)
        make(path)
        found = read_row(path)
        assert isinstance(found, InvalidRow) and found.path == path and found.reason
    assert len(read_rows([store.root])[1]) == 2


def test_temporaries_of_a_killed_write_are_neither_rows_nor_invalid(store: Store) -> None:
    row = a_row()
    path = store.write(row)
    path.with_name(".row.json.abc123").write_text("{")
    assert read_rows([store.root]) == ([row], [])


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_folder_of_runs_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "runs"
    assert read_rows([path]) == ([], [])
    make(path)
    with pytest.raises(StoreError, match=f"^{path}: is no folder of runs"):
        read_rows([path])
