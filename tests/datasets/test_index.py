"""The index of a large image folder: used while its folders are as they were, and never instead of looking."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kdbench.datasets import DataError, _image_folder, _index, open_images
from kdbench.datasets.base import FileSplit, ImageSet


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_index, "LEAST", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, one with a folder below it; listed long after it was made."""
    path = tmp_path / "mine"
    for name in ("train/a/x", "train/a/below/y", "train/b/z", "val/a/x", "val/b/z"):
        file = path / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (len(name), 0, 0)).save(file)
    age(path)
    return path


def age(path: Path) -> None:
    for place, _, _ in os.walk(path):
        os.utime(place, (1e9, 1e9))


def opened(folder: Path) -> ImageSet:
    return open_images("imagenet", folder.parent / "data", folder)


def content(data: ImageSet) -> list[Any]:
    splits = [split for split in (data.train, data.val) if isinstance(split, FileSplit)]
    assert len(splits) == 2
    listed = [(list(split.files), split.labels.tolist(), split.load(0).getpixel((0, 0))) for split in splits]
    return [data.name, data.classes, data.fingerprint, data.notices, data.epoch_images, *listed]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of splits that were listed."""
    folders: list[Path] = []
    scan = _image_folder._scan

    def counted(folder: Path) -> Any:
        folders.append(folder)
        return scan(folder)

    monkeypatch.setattr(_image_folder, "_scan", counted)
    return folders


def test_a_folder_is_listed_once_and_is_the_same_from_its_index(folder: Path, listed: list[Path]) -> None:
    first = content(opened(folder))
    assert any("below" in notice for notice in first[3])
    assert content(opened(folder)) == first and len(listed) == 2


@pytest.mark.parametrize("change", ["add", "add below", "remove", "rename", "class", "val"])
def test_any_change_of_its_folders_is_seen(change: str, folder: Path, listed: list[Path]) -> None:
    before = opened(folder)
    file = folder / "train/a/x.png"
    match change:
        case "add":
            file.with_name("new.png").write_bytes(file.read_bytes())
        case "add below":
            (folder / "train/a/below/new.png").write_bytes(file.read_bytes())
        case "remove":
            file.unlink()
        case "rename":
            file.rename(file.with_name("other.png"))
        case "class":
            for split in ("train", "val"):
                (folder / split / "c").mkdir()
                (folder / split / "c/w.png").write_bytes(file.read_bytes())
        case "val":
            (folder / "val/b/z.png").rename(folder / "val/b/w.png")
    after = opened(folder)
    assert after.fingerprint != before.fingerprint and len(listed) == 4


def test_a_file_that_was_written_to_in_place_is_named_when_it_is_read(folder: Path, listed: list[Path]) -> None:
    opened(folder)
    (folder / "train/a/x.png").write_bytes(b"another")
    data = opened(folder)
    assert len(listed) == 2 and isinstance(data.train, FileSplit)
    with pytest.raises(DataError, match=r"x\.png: has 7 bytes and had \d+ when its folder was listed; .*touch"):
        data.train.load([file.name for file in data.train.files].index("x.png"))


def test_neither_a_damaged_index_nor_one_of_a_folder_that_changes_now_is_used(folder: Path, listed: list[Path]) -> None:
    first = content(opened(folder))
    (index,) = (folder.parent / "data" / _index.FOLDER).iterdir()
    for damage in (b"", b"{}", index.read_bytes()[:-9], index.read_bytes().replace(b"x.png", b"x.png\\nw.png")):
        index.write_bytes(damage)
        assert content(opened(folder)) == first
    assert len(listed) == 10
    os.utime(folder / "train")
    opened(folder)
    opened(folder)
    assert len(listed) == 14  # its clock may be too coarse to show what happens next


def test_a_small_folder_has_no_index(folder: Path, listed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_index, "LEAST", 6)
    opened(folder)
    opened(folder)
    assert len(listed) == 4 and not (folder.parent / "data").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_index_that_cannot_be_kept_is_a_notice(folder: Path) -> None:
    data = folder.parent / "data"
    data.mkdir()
    data.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert "cannot be written" in opened(folder).notices[-1]


def test_an_index_in_whose_place_something_else_is_is_a_notice(folder: Path) -> None:
    (folder.parent / "data").write_text("no folder")
    notice = opened(folder).notices[-1]
    assert "cannot be written" in notice and "each job lists the images again" in notice
