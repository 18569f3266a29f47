"""The embedded classification set: the same bytes each time, read by the loader of the real sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench import datasets
from kdbench.datasets import DataError, _arrays, _pictures, _scenes, digits
from kdbench.datasets.base import ArraySplit, ImageSet

FEW = {"train": 20, "val": 10}
CONTENT = "f64be363efe3e5edb9deaca8655ddd00973539e967dd907b403410fd5d04a32b"


def open_few(root: Path, **changes: Any) -> ImageSet:
    return datasets.open_images("digits", root, **{**FEW, **changes})


def file_in(root: Path) -> Path:
    (file,) = root.glob("*/arrays.npz")
    return file


def images(split: Any) -> Any:
    assert isinstance(split, ArraySplit)
    return split.images


def test_content_of_version_3(tmp_path: Path) -> None:
    assert _pictures.VERSION == 3
    assert digits.write_arrays(tmp_path, **FEW) == CONTENT, "what is drawn has changed: raise VERSION"


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    content = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        digits.write_arrays(tmp_path / name, seed, **FEW)
        content.append((tmp_path / name / "arrays.npz").read_bytes())
    assert content[0] == content[1] != content[2]


def test_a_picture_does_not_depend_on_how_many_there_are() -> None:
    source = _scenes.strokes("val")
    few, many = (_pictures.pictures((0, 1), source, count)[0] for count in (3, 6))
    assert np.array_equal(few, many[:3])


def test_pictures_are_small_rgb_and_classes_in_balance(tmp_path: Path) -> None:
    data = open_few(tmp_path)
    assert data.name == "digits" and data.classes == tuple("0123456789")
    for split, count in ((data.train, 20), (data.val, 10)):
        assert images(split).shape == (count, 32, 32, 3)
        assert np.array_equal(np.bincount(split.labels), np.full(10, count // 10))
    assert not np.array_equal(images(data.train)[:10], images(data.val))


def test_every_set_is_normalised_alike_and_about_right() -> None:
    pictures, _ = _pictures.pictures((7,), _scenes.strokes("train"), 200)
    mean, std = _arrays.mean_and_std(Path("pictures"), pictures)
    assert np.allclose(mean, digits.MEAN, atol=0.02) and np.allclose(std, digits.STD, atol=0.02)


def test_the_embedded_set_is_written_once_and_its_folder_is_named_for_what_it_holds(tmp_path: Path) -> None:
    first = open_few(tmp_path)
    before = file_in(tmp_path).stat().st_mtime_ns
    second = open_few(tmp_path)
    assert first.notices == (f"{first.path.parent}: prepared",) and second.notices == ()
    assert file_in(tmp_path).stat().st_mtime_ns == before and second.fingerprint == first.fingerprint
    other = open_few(tmp_path, seed=1)
    assert other.path != first.path and other.fingerprint != first.fingerprint
    assert all(path.parent.name.startswith("digits-v3-arrays-") for path in (first.path, other.path))


def test_the_default_set_has_the_plain_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = digits.write_arrays
    monkeypatch.setattr(digits, "write_arrays", lambda new, *_: write(new, **FEW))  # drawing 5000 takes seconds
    assert datasets.open_images("digits", tmp_path).path == tmp_path / "digits-v3-arrays" / "arrays.npz"


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def drop_manifest(file: Path) -> None:
    file.with_name("fingerprint.json").unlink()


@pytest.mark.parametrize("damage", [remove, cut, drop_manifest])
def test_a_damaged_set_is_written_anew_and_says_so(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    open_few(tmp_path)
    file = file_in(tmp_path)
    whole = file.read_bytes()
    damage(file)
    (notice,) = open_few(tmp_path).notices
    assert "written again" in notice and file.read_bytes() == whole


@pytest.mark.parametrize("option", [{"seed": -1}, {"train": 9}, {"val": 0}, {"train": 20.0}, {"val": True}])
def test_an_argument_out_of_range_is_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=rf"data option {next(iter(option))}=.* of 'digits': must be a whole number"):
        open_few(tmp_path, **option)
    assert not list(tmp_path.iterdir())


def test_a_picture_shows_its_digit_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pictures, "NOISE", (0.0, 0.0))
    source = _scenes.strokes("train")
    blank = np.zeros((8, 8), dtype=np.uint8)
    changed = np.zeros((32, 32), dtype=np.int64)
    for i in range(60):
        pictures = [_pictures.picture(np.random.default_rng(i), source, levels) for levels in (source.levels[i], blank)]
        difference = (pictures[0] != pictures[1]).any(axis=2)
        assert difference.sum() > 15
        changed += difference
    assert changed[12:20, 12:20].mean() > 15
    assert changed[0].sum() + changed[-1].sum() + changed[:, 0].sum() + changed[:, -1].sum() < 60
