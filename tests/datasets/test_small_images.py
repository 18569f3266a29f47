"""Image folders read as arrays of small images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench import datasets
from kdbench.datasets import DataError, _files, _small_images
from kdbench.datasets.base import ArraySplit, ImageSet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, red and green, of three training images and one validation image each; 40x20, blue at both ends."""
    path = tmp_path / "photos"
    for split, count in (("train", 3), ("val", 1)):
        for channel, name in enumerate(("red", "green")):
            (path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.zeros((20, 40, 3), np.uint8)
                pixels[..., channel] = 200 + i
                pixels[:, :8] = pixels[:, -8:] = (0, 0, 255)
                Image.fromarray(pixels).save(path / split / name / f"{i}.png")
    return path


def read(folder: Path, **options: object) -> ImageSet:
    return datasets.open_images("", folder.parent / "data", folder, **options)


def test_the_center_of_each_image_is_resized(folder: Path) -> None:
    data, files = read(folder, pixels=4), read(folder)
    assert isinstance(data.train, ArraySplit) and isinstance(data.val, ArraySplit)
    assert data.train.images.shape == (6, 4, 4, 3) and data.val.images.shape == (2, 4, 4, 3)
    assert data.train.labels.tolist() == files.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.classes == ("green", "red")
    assert data.train.images[:, 1, 1].tolist() == [[0, 200 + i, 0] for i in range(3)] + [
        [200 + i, 0, 0] for i in range(3)
    ]
    assert (data.name, data.fingerprint, data.mean, data.std) == (files.name, files.fingerprint, files.mean, files.std)
    assert any("resized to 4x4 pixels" in notice for notice in data.notices)


def test_images_are_decoded_once_and_again_after_a_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    small = _small_images.small
    monkeypatch.setattr(_small_images, "small", lambda file, pixels: decoded.append(file.name) or small(file, pixels))
    first = read(folder, pixels=4)
    assert len(decoded) == 8
    second = read(folder, pixels=4)
    assert len(decoded) == 8
    assert isinstance(first.train, ArraySplit) and isinstance(second.train, ArraySplit)
    assert np.array_equal(first.train.images, second.train.images)
    image = folder / "train" / "red" / "0.png"
    os.utime(image, ns=(1, 1))
    read(folder, pixels=4)
    assert len(decoded) == 16


def test_variants_are_made_of_the_arrays(folder: Path) -> None:
    data = read(folder, pixels=4, fraction=0.34, resolution=2)
    assert len(data.train) == 2 and data.resolution == 2 and data.epoch_images == 6


def test_a_broken_image_is_one_error_and_leaves_nothing_behind(folder: Path) -> None:
    image = folder / "val" / "red" / "0.png"
    image.write_bytes(image.read_bytes()[:60] + bytes(20) + b"IEND\xae\x42\x60\x82")
    with pytest.raises(DataError, match=r"val/red/0\.png: cannot be decoded"):
        read(folder, pixels=4)
    assert list((folder.parent / "data" / _small_images.FOLDER).iterdir()) == []


@pytest.mark.parametrize("pixels", [0, -1, 1.5, "32", True, 513])
def test_a_size_that_no_image_has_is_one_error(folder: Path, pixels: object) -> None:
    with pytest.raises(DataError, match="data option pixels=.*must be a whole number"):
        read(folder, pixels=pixels)


def test_more_images_than_memory_are_refused_before_any_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "memory_budget", lambda: 8 * 3 * 16 - 1)
    with pytest.raises(DataError, match="8 images of 4x4 pixels take more than"):
        read(folder, pixels=4)
    assert not (folder.parent / "data").exists()


def test_an_array_file_has_its_own_size(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    images, labels = np.arange(4 * 48, dtype=np.uint8).reshape(4, 4, 4, 3), np.array([0, 1, 0, 1])
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(DataError, match="unknown data option: 'pixels'"):
        datasets.open_images("", tmp_path, file, pixels=4)
