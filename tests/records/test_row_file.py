"""What a row's file is checked for when it is read, and when its epochs are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdbench.errors import StoreError
from kdbench.records.history import History
from kdbench.records.row import Row
from kdbench.records.row_file import InvalidRow, encode, read_row
from kdbench.records.store import Store, read_rows
from kdbench.spec.recipe import load_recipe
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table


def a_row(seed: int = 0, epochs: int = 3) -> Row:
    table = fixed_table("dist/coco")
    recipe = load_recipe("coco_mini", {"epochs": epochs})
    return make_row(table, table.pairs[0], table.methods[1], "mini", seed, recipe=recipe)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def invalid(path: Path) -> InvalidRow:
    found = read_row(path)
    assert isinstance(found, InvalidRow), found
    return found


@pytest.mark.parametrize("epochs", [2, 100])
def test_a_flipped_bit_anywhere_in_a_row_is_found(epochs: int, store: Store) -> None:
    path = store.write(a_row(epochs=epochs))
    whole = path.read_bytes()
    for place in range(0, len(whole), 1 if epochs == 2 else 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert invalid(path).reason
    path.write_bytes(whole)
    assert isinstance(read_row(path), Row)


def test_a_truncated_row_is_found_and_can_be_done_again(store: Store) -> None:
    path = store.write(a_row(epochs=100))
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert invalid(path).damaged


def test_a_row_of_another_run_is_not_the_folders(store: Store) -> None:
    one, other = a_row(0), a_row(1)
    source = store.write(one)
    target = store.row_file(other.id)
    target.parent.mkdir()
    shutil.copy(source, target)
    assert store.row(other.id) is None
    rows, (wrong,) = read_rows([store.root])
    assert rows == [one] and wrong.path == target
    assert wrong.reason == f"id: is {one.id}, the result of another run than {other.id}, in whose folder it is"


def changed(row: Row, place: str, value: Any) -> str:
    content = json.loads(row.model_dump_json())
    *outer, last = place.split(".")
    target = content
    for part in outer:
        target = target[int(part)] if part.isdecimal() else target[part]
    target[last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("metrics.last.ap", 150.0),
        ("metrics.last.ap", -0.1),
        ("metrics.best.ap", float("nan")),
        ("metrics.mean_last10.ap", float("inf")),
        ("metrics.evaluated", -1),
        ("history.0.metrics.ap", 101.0),
        ("history.1.losses.task", float("nan")),
        ("history.0.steps", -5),
        ("history.0.lr", -0.1),
        ("teacher.measured", 1000.0),
        ("teacher.sha256", "../../etc"),
        ("student.file", "../../secret/student.pt"),
        ("student.file", "/etc/passwd"),
        ("student.sha256", "ab"),
        ("cost.params", -1),
        ("cost.flops", -1.0),
        ("cost.step_seconds", -0.1),
        ("cost.wall_seconds", float("nan")),
        ("cost.images_per_second", -3.0),
        ("cost.peak_memory", -1),
        ("cost.cohort", 0),
        ("environment.commit", "../../outside"),
        ("environment.commit", "/tmp/outside"),
        ("environment.commit", ".."),
        ("environment.commit", "a" * 300),
        ("environment.threads", -1),
    ],
)
def test_a_value_that_no_run_has_is_named_by_its_field(place: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text(changed(a_row(), place, value))
    assert invalid(path).reason.startswith(f"{place}: ")


def test_a_row_of_another_version_and_one_that_cannot_be_read_are_not_to_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text('{"schema_version": 2, "what": "ever"}')
    assert not invalid(path).damaged and "schema_version: 2 is not 1" in invalid(path).reason
    path.unlink()
    path.mkdir()
    assert not invalid(path).damaged


LAYOUTS: dict[str, Callable[[Row], bytes]] = {
    "written": encode,
    "of before checksums": lambda row: row.model_dump_json(indent=1).encode(),
    "compact": lambda row: row.model_dump_json().encode(),
    "wide": lambda row: json.dumps(json.loads(row.model_dump_json()), indent=4).encode(),
    "sorted": lambda row: json.dumps(json.loads(row.model_dump_json()), sort_keys=True, indent=1).encode(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_long_history_stays_in_its_file_until_it_is_used(layout: str, tmp_path: Path) -> None:
    row, path = a_row(epochs=100), tmp_path / "row.json"
    path.write_bytes(LAYOUTS[layout](row))
    found = read_row(path)
    assert isinstance(found, Row) and isinstance(found.history, History)
    assert found.steps == row.history[-1].steps
    assert found == row and row == found and [*found.history] == [*row.history] and len(found.history) == 100
    assert found.history[0] == row.history[0] and found.history[-2:] == row.history[-2:]
    if layout != "sorted":
        assert encode(found) == encode(row) and found.model_dump_json() == row.model_dump_json()


def test_a_history_whose_file_has_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_bytes(encode(a_row(epochs=100)))
    found = read_row(path)
    path.write_bytes(encode(a_row(1, epochs=100)))
    assert isinstance(found, Row)
    with pytest.raises(StoreError, match=f"^{path} changed while it was in use"):
        len(found.history)
    path.unlink()
    with pytest.raises(StoreError, match=f"^{path} cannot be read"):
        list(found.history)


def test_an_epoch_that_no_run_has_is_named_when_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text(changed(a_row(epochs=100), "history.7.metrics.ap", 101.0))
    found = read_row(path)
    assert isinstance(found, Row)
    with pytest.raises(StoreError, match=f"^{path}: history.7.metrics.ap: "):
        found.history[0]


def test_names_within_a_history_that_look_like_its_end_are_read(tmp_path: Path) -> None:
    row, path = a_row(epochs=100), tmp_path / "row.json"
    odd = [epoch.model_copy(update={"losses": {'a],"b': 1.0, '"steps": 7': 2.0}}) for epoch in row.history]
    row = row.model_copy(update={"history": tuple(odd), "learned": {"history": 3.0}})
    for content in (encode(row), row.model_dump_json().encode()):
        path.write_bytes(content)
        found = read_row(path)
        assert isinstance(found, Row) and found == row and found.steps == row.steps
