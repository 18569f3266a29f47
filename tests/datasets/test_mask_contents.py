"""What masks contain: empty classes are reported, and masks that nothing can be learned from are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench import datasets
from kdbench.datasets import DataError
from kdbench.datasets.base import MaskSet
from kdbench.tasks.segmentation import SegmentationTask

MASK = np.array([[0, 1, 2, 2], [0, 1, 9, 2], [0, 0, 9, 9]], dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pairs a split of 4x3 pixels in three classes; a quarter of the pixels is 9."""
    path = tmp_path / "mine"
    for split in ("train", "val"):
        for kind, pixels in (("images", np.full((3, 4, 3), 60, np.uint8)), ("masks", MASK)):
            (path / kind / split).mkdir(parents=True)
            for name in ("a", "b"):
                Image.fromarray(pixels).save(path / kind / split / f"{name}.png")
    (path / "classes.txt").write_text("sky\nroad\ncar\n")
    return path


def open_at(path: Path, ignore_index: int = 9) -> MaskSet:
    return datasets.open_masks("", path.parent, path, ignore_index=ignore_index)


def test_classes_without_a_pixel_are_reported_with_the_share_that_is_ignored(folder: Path) -> None:
    (folder / "classes.txt").write_text("sky\nroad\ncar\nbus\n")
    data = open_at(folder)
    data.check_classes()
    assert data.empty_classes == ("bus",)
    assert data.notices == tuple(
        f"{folder}: {split}: 1 of 4 classes has no pixel: 'bus'; 25 % of the pixels are ignored"
        for split in ("train", "val")
    )


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ((0, 255), (0, 1), r"mine: the training masks hold only the class 'sky', and 75 % .*gray levels 0 to 2"),
        ((255, 255), (0, 1), r"mine: the training masks hold no class, and 100 % of their pixels are ignored"),
        ((0, 1), (255, 255), r"mine: the validation masks hold no class"),
    ],
)
def test_masks_without_two_classes_are_refused(
    folder: Path, train: tuple[int, int], val: tuple[int, int], message: str
) -> None:
    for split, (left, right) in (("train", train), ("val", val)):
        for file in (folder / "masks" / split).iterdir():
            Image.fromarray(np.array([[left, right, right, right]] * 3, dtype=np.uint8)).save(file)
    with pytest.raises(DataError, match=message):
        SegmentationTask.verify(open_at(folder, ignore_index=255))


def test_a_class_that_is_in_a_late_mask_alone_is_found(folder: Path) -> None:
    Image.fromarray(np.zeros((3, 4), dtype=np.uint8)).save(folder / "masks/train/a.png")
    assert open_at(folder).empty_classes == ()


def test_an_image_is_turned_by_its_tag_where_its_mask_is(folder: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.new("RGB", (3, 4), (200, 30, 60)).save(folder / "images/train/a.png", exif=tag)
    data = open_at(folder)
    assert data.train.load(0)[0].shape == (3, 4, 3)
    assert data.notices == (f"{folder}: train: 1 image is turned by its orientation tag, as the size of the masks is",)


@pytest.mark.parametrize("name", ["masks/train/a.png", "images/train/a.png", "classes.txt"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DataError, match=rf"{name}: cannot be .*\(is a pipe, not a file\)"):
        open_at(folder)


def test_a_folder_called_valid_is_used_for_validation(folder: Path) -> None:
    for kind in ("images", "masks"):
        (folder / kind / "val").rename(folder / kind / "valid")
    assert open_at(folder).notices == (f"{folder / 'images' / 'valid'} is used for validation",)


def test_images_in_folders_below_are_not_read_and_reported(folder: Path) -> None:
    (folder / "masks" / "train" / "color" / "old").mkdir(parents=True)
    (folder / "images" / "val" / ".cache").mkdir()
    for place in ("masks/train/color/old", "images/val/.cache"):
        Image.new("L", (4, 3)).save(folder / place / "c.png")
    data = open_at(folder)
    assert len(data.train) == 2
    assert (
        data.notices[0] == f"{folder / 'masks' / 'train'}: 1 image in folders below (first: color/old/c.png); not read"
    )
    assert not any(".cache" in notice for notice in data.notices)
