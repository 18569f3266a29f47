"""Variants of classification sets: what they change, and nothing else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbench import datasets
from kdbench.datasets import DataError, _variants
from kdbench.datasets.base import ArraySplit, FileSplit, ImageSet

LABELS = np.repeat([0, 1, 2], [40, 20, 3])


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """63 + 1100 images of 8x8, class sizes 40, 20 and 3."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (63 + 1100, 8, 8, 3), dtype=np.uint8)
    file = tmp_path / "mine.npz"
    labels = rng.permutation(LABELS)
    np.savez(file, x_train=images[:63], y_train=labels, x_test=images[63:], y_test=np.arange(1100) % 3)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 8), ("val", 1)):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def open_at(path: Path, **options: Any) -> ImageSet:
    return datasets.open_images("", path.parent, path, **options)


def pixels(split: ArraySplit | FileSplit) -> Any:
    assert isinstance(split, ArraySplit)
    return split.images


def test_fraction_keeps_that_share_of_each_class_in_order(npz: Path) -> None:
    whole, quarter = open_at(npz), open_at(npz, fraction=0.25)
    assert np.bincount(quarter.train.labels).tolist() == [10, 5, 1]
    places = {image.tobytes(): i for i, image in enumerate(pixels(whole.train))}
    at = [places[image.tobytes()] for image in pixels(quarter.train)]
    assert at == sorted(set(at)) and np.array_equal(whole.train.labels[at], quarter.train.labels)
    assert quarter.epoch_images == whole.epoch_images == 63
    assert quarter.fingerprint == whole.fingerprint and quarter.mean == whole.mean and quarter.name == whole.name
    assert np.array_equal(pixels(quarter.val), pixels(whole.val))
    assert quarter.notices == ("train: 16 of 63 images, the same share of each class",)


def test_a_smaller_fraction_lies_within_a_larger_one() -> None:
    kept = [set(_variants.subset(LABELS, fraction).tolist()) for fraction in (0.01, 0.25, 0.5, 0.75, 1.0)]
    assert all(small < large for small, large in pairwise(kept))
    assert len(kept[0]) == 3 and kept[-1] == set(range(63))


def test_which_images_are_kept_is_the_same_in_every_run() -> None:
    assert _variants.subset(np.arange(40) % 2, 0.2).tolist() == KEPT


KEPT = [2, 15, 19, 20, 21, 32, 36, 39]


def test_fraction_of_files(folder: Path) -> None:
    half = open_at(folder, fraction=0.5)
    assert isinstance(half.train, FileSplit) and half.train.labels.tolist() == [0] * 4 + [1] * 4
    assert [file.parent.name for file in half.train.files] == ["a"] * 4 + ["b"] * 4
    assert half.epoch_images == 16 and half.fingerprint == open_at(folder).fingerprint


def test_resolution_is_noted_and_images_stay(npz: Path) -> None:
    whole, reduced = open_at(npz), open_at(npz, resolution=4)
    assert reduced.resolution == 4 and reduced.fingerprint == whole.fingerprint
    assert np.array_equal(pixels(reduced.train), pixels(whole.train))
    assert np.array_equal(pixels(reduced.val), pixels(whole.val))


def test_noise_disturbs_validation_images_alone_and_always_alike(npz: Path) -> None:
    whole, noisy = open_at(npz), open_at(npz, noise=0.1)
    assert np.array_equal(pixels(noisy.train), pixels(whole.train))
    assert np.array_equal(pixels(noisy.val), pixels(open_at(npz, noise=0.1).val))
    assert noisy.fingerprint == whole.fingerprint and np.array_equal(noisy.val.labels, whole.val.labels)
    assert pixels(noisy.val).dtype == np.uint8
    inner = (pixels(whole.val) > 110) & (pixels(whole.val) < 145)  # nothing is clipped there
    change = (pixels(noisy.val).astype(float) - pixels(whole.val))[inner]
    assert change.std() == pytest.approx(25.5, rel=0.02) and abs(change.mean()) < 0.5
    first, second = (
        pixels(noisy.val)[at].astype(float) - pixels(whole.val)[at] for at in (slice(100), slice(1000, 1100))
    )
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_noise_is_clipped_and_none_changes_nothing(npz: Path) -> None:
    strong = pixels(open_at(npz, noise=1).val)
    assert 0.2 < ((strong == 0) | (strong == 255)).mean() < 0.8
    assert np.array_equal(pixels(open_at(npz, noise=0).val), pixels(open_at(npz).val))


def test_variants_combine(npz: Path) -> None:
    data = open_at(npz, fraction=0.5, resolution=2, noise=0.05)
    assert len(data.train) == 20 + 10 + 2 and data.resolution == 2 and len(data.notices) == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("fraction", value) for value in (0, 1.01, -0.5, float("nan"), "0.5", True, None)),
        *(("noise", value) for value in (-0.1, 1.5, float("nan"), "little", False)),
        *(("resolution", value) for value in (0, -8, 4.0, "4", True)),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_is_read(tmp_path: Path, option: str, value: Any) -> None:
    with pytest.raises(DataError, match=rf"data option {option}=.*: must be"):
        open_at(tmp_path / "missing.npz", **{option: value})


@pytest.mark.parametrize("side", [3, 16])
def test_a_resolution_that_does_not_divide_the_side_is_refused(npz: Path, side: int) -> None:
    with pytest.raises(DataError, match=rf"resolution={side}: must divide the side .*mine\.npz, which are 8x8"):
        open_at(npz, resolution=side)


@pytest.mark.parametrize("options", [{"resolution": 4}, {"noise": 0.1}])
def test_image_files_have_neither_resolution_nor_noise(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=rf"data option {next(iter(options))}: needs images in arrays"):
        open_at(folder, **options)


def test_an_unknown_option_suggests_the_nearest(npz: Path, tmp_path: Path) -> None:
    message = r"unknown data option: 'fractoin'\. Did you mean 'fraction'\? Available: fraction, noise, resolution"
    with pytest.raises(DataError, match=message + "$"):
        open_at(npz, fractoin=0.5)
    with pytest.raises(DataError, match=r"'trian'\. Did you mean 'train'\? Available: .*seed, train, val$"):
        datasets.open_images("digits", tmp_path, trian=10)
    with pytest.raises(DataError, match=r"unknown data option: 'seed'"):
        open_at(npz, seed=1)
