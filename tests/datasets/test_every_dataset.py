"""Promises of every data set that can be opened here; a new file is tested without an edit here."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from kdbench import datasets
from kdbench.datasets import DataError, _variants
from kdbench.datasets._cifar import Cifar
from kdbench.datasets.base import IGNORE_INDEX, ArraySplit, ImageSet, MaskSet
from kdbench.datasets.coco import CocoFolder, CocoSplit

REAL = "KDBENCH_TEST_DATA"  # a folder that holds coco_mini/, a small real COCO folder, and camvid/
VIEWS = {name: importlib.import_module(f"kdbench.datasets.{name}") for name in datasets.names()}
SMALL_IMAGES = {"train": 40, "val": 20}
SMALL_MASKS = {"train": 4, "val": 2}


@pytest.fixture(scope="module", params=[*(name for name in VIEWS if hasattr(VIEWS[name], "open_coco")), REAL])
def folder(
    request: pytest.FixtureRequest, open_small: Callable[[str], CocoFolder], tmp_path_factory: pytest.TempPathFactory
) -> CocoFolder:
    if request.param == REAL:
        if REAL not in os.environ:
            pytest.skip(f"{REAL} names no folder of real data")
        return datasets.open_coco("coco", tmp_path_factory.mktemp("none"), Path(os.environ[REAL]) / "coco_mini")
    try:
        return open_small(request.param)
    except DataError as error:
        pytest.skip(f"not on this disk: {error}")


@pytest.fixture(scope="module", params=[name for name in VIEWS if hasattr(VIEWS[name], "open_images")])
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    name, root = request.param, tmp_path_factory.mktemp("images")
    if hasattr(VIEWS[name], "present"):
        return made(name, root)
    return datasets.open_images(name, root, **small(name, "open_images", SMALL_IMAGES))


def small(name: str, view: str, sizes: dict[str, int]) -> dict[str, int]:
    """The options among `sizes` that a generated data set has."""
    parameters = inspect.signature(getattr(VIEWS[name], view)).parameters
    return {option: size for option, size in sizes.items() if option in parameters}


def made(name: str, root: Path) -> ImageSet:
    """The data set `name`, from files of its form with two random images a class and split."""
    rng = np.random.default_rng(0)
    cifar = next((facts for facts in vars(VIEWS[name]).values() if isinstance(facts, Cifar)), None)
    if cifar is not None:
        labels = np.arange(2 * len(cifar.classes)) // 2
        pixels = rng.integers(0, 256, (2, len(labels), 32, 32, 3), dtype=np.uint8)
        np.savez(root / f"{name}.npz", x_train=pixels[0], y_train=labels, x_test=pixels[1], y_test=labels)
    elif name == "imagenet":
        for folder in (root / name / split / label for split in ("train", "val") for label in "ab"):
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.JPEG")
    else:
        pytest.skip(f"{name} is not on this disk")
    return datasets.open_images(name, root)


@pytest.fixture(scope="module", params=[*(name for name in VIEWS if hasattr(VIEWS[name], "open_masks")), REAL])
def masks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MaskSet:
    name, root = request.param, tmp_path_factory.mktemp("masks")
    if name == REAL:
        if REAL not in os.environ:
            pytest.skip(f"{REAL} names no folder of real data")
        return datasets.open_masks("camvid", Path(os.environ[REAL]))
    if not hasattr(VIEWS[name], "present"):
        return datasets.open_masks(name, root, **small(name, "open_masks", SMALL_MASKS))
    for split in ("train", "val"):
        if name == "cityscapes":
            files = ("leftImg8bit/{}/bonn/bonn_0_0_leftImg8bit.png", "gtFine/{}/bonn/bonn_0_0_gtFine_labelIds.png")
        elif name == "camvid":
            files = ("images/{}/a.png", "masks/{}/a.png")
        else:
            pytest.skip(f"{name} is not on this disk")
        image, mask = (root / name / file.format(split) for file in files)
        image.parent.mkdir(parents=True)
        mask.parent.mkdir(parents=True)
        Image.new("RGB", (6, 4), (1, 2, 3)).save(image)
        Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) % 12).save(mask)
    (root / name / "classes.txt").write_text("\n".join("abcdefghijk"))
    return datasets.open_masks(name, root)


@pytest.fixture(params=["train", "val"])
def split(request: pytest.FixtureRequest, folder: CocoFolder) -> CocoSplit:
    chosen: CocoSplit = getattr(folder, request.param)
    return chosen


def test_samples_have_the_promised_types_and_boxes_lie_inside(folder: CocoFolder, split: CocoSplit) -> None:
    for i in range(min(20, len(split))):
        image, boxes, labels, image_id = split.load(i)
        assert image.mode == "RGB" and image.size == split.size(i)
        assert boxes.dtype == np.float32 and boxes.shape == (len(labels), 4)
        assert labels.dtype == np.int64 and set(labels.tolist()) <= set(range(len(folder.classes)))
        assert image_id == split.image_ids[i]
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= np.array(image.size)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_objects_agree_with_what_the_evaluator_reads(folder: CocoFolder, split: CocoSplit) -> None:
    reference = COCO(split.annotation_file)
    assert sorted(reference.getCatIds()) == list(folder.category_ids)
    for i in range(len(split)):
        boxes, labels = split.objects(i)
        theirs = reference.loadAnns(reference.getAnnIds(imgIds=[int(split.image_ids[i])], iscrowd=False))
        if split.counts.dropped == split.counts.clipped == 0:
            found = sorted((folder.category_ids[k], *box) for k, box in zip(labels, boxes.tolist(), strict=True))
            x_y_w_h = [(a["category_id"], *a["bbox"]) for a in theirs]
            expected = sorted((c, x, y, x + w, y + h) for c, x, y, w, h in x_y_w_h)
            assert np.allclose(found, expected, atol=1e-3)
    assert len(split.annotations.boxes) == split.counts.boxes > 0


def test_training_leaves_out_images_without_annotations_and_evaluation_keeps_them(folder: CocoFolder) -> None:
    assert len(folder.train) == folder.train.counts.images - folder.train.counts.empty
    assert len(folder.val) == folder.val.counts.images


def test_files_are_whole(split: CocoSplit) -> None:
    split.verify()
    split.verify(full=len(split) < 1000)


def test_a_split_travels_to_worker_processes(split: CocoSplit) -> None:
    copy = pickle.loads(pickle.dumps(split))  # noqa: S301 - our own bytes
    assert np.array_equal(copy.load(0)[1], split.load(0)[1])


def test_objects_can_be_changed_without_changing_the_data_set(split: CocoSplit) -> None:
    before = split.objects(0)[0].copy()
    split.objects(0)[0][:] = -1
    assert np.array_equal(split.objects(0)[0], before)


def test_fingerprint_is_16_hex_digits(folder: CocoFolder) -> None:
    assert len(folder.fingerprint) == 16 and int(folder.fingerprint, 16) >= 0


def test_images_and_labels_have_the_promised_types(images: ImageSet) -> None:
    sizes = set()
    for split in (images.train, images.val):
        assert split.labels.dtype == np.int64 and split.labels.shape == (len(split),) and len(split) > 0
        if isinstance(split, ArraySplit):
            assert split.images.dtype == np.uint8 and split.images.shape[::3] == (len(split), 3)
            sizes.add(split.images.shape[1:])
        else:
            assert split.load(len(split) - 1).mode == "RGB" and len(split.files) == len(split)
    assert len(sizes) <= 1


def test_every_class_has_a_name_and_training_images(images: ImageSet) -> None:
    assert len(set(images.classes)) == len(images.classes) >= 2
    assert set(images.train.labels) == set(range(len(images.classes)))
    assert set(images.val.labels) <= set(range(len(images.classes)))


def test_an_image_set_knows_its_statistics_and_identity(images: ImageSet) -> None:
    assert all(0 < value < 1 for value in (*images.mean, *images.std))
    assert len(images.fingerprint) == 16 and int(images.fingerprint, 16) >= 0
    assert images.epoch_images == len(images.train) and images.path.exists() and images.resolution is None
    assert images.name in datasets.names(), f"the name of the set is {images.name!r}, not that of its file"


def test_an_image_set_travels_to_worker_processes(images: ImageSet) -> None:
    copy = pickle.loads(pickle.dumps(images))  # noqa: S301 - our own bytes
    assert copy.fingerprint == images.fingerprint and np.array_equal(copy.val.labels, images.val.labels)


def test_a_fraction_of_every_image_set_keeps_every_class(images: ImageSet) -> None:
    half = _variants.apply(images, {"fraction": 0.5})
    expected = np.maximum(1, (np.bincount(images.train.labels) + 1) // 2)
    assert np.array_equal(np.bincount(half.train.labels), expected), (
        f"{images.name}: fraction=0.5 is not half of a class"
    )
    assert half.fingerprint == images.fingerprint and half.epoch_images == images.epoch_images


def test_masks_have_the_promised_types_and_classes(masks: MaskSet) -> None:
    for split in (masks.train, masks.val):
        assert len(split) == len(split.images) == len(split.masks) > 0
        for i in range(min(20, len(split))):
            image, classes = split.load(i)
            assert image.dtype == classes.dtype == np.uint8
            assert image.shape == (*classes.shape, 3) and classes.shape[::-1] == split.size(i)
            assert set(np.unique(classes).tolist()) <= {*range(len(masks.classes)), IGNORE_INDEX}


def test_files_of_masks_are_whole(masks: MaskSet) -> None:
    for split in (masks.train, masks.val):
        split.verify()
        split.verify(full=len(split) < 100)


def test_a_mask_set_knows_its_classes_colors_and_identity(masks: MaskSet) -> None:
    assert len(masks.classes) == len(set(masks.classes)) == len(masks.colors) >= 2
    assert len(set(masks.colors)) == len(masks.colors)
    assert all(0 <= level <= 255 for color in masks.colors for level in color)
    assert all(0 < value < 1 for value in (*masks.mean, *masks.std))
    assert len(masks.fingerprint) == 16 and int(masks.fingerprint, 16) >= 0
    assert masks.name in datasets.names() and masks.path.is_dir()


def test_a_mask_split_travels_to_worker_processes(masks: MaskSet) -> None:
    copy = pickle.loads(pickle.dumps(masks.val))  # noqa: S301 - our own bytes
    assert np.array_equal(copy.load(0)[1], masks.val.load(0)[1])


@pytest.mark.parametrize("name", datasets.names())
def test_nothing_is_present_in_an_empty_folder(tmp_path: Path, name: str) -> None:
    assert datasets.present(name, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_coco_is_present_where_its_folder_is(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    assert datasets.present("coco", tmp_path) == tmp_path / "coco"


def test_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    message = r"unknown data set: 'digit'\. Did you mean 'digits'\? Available: .*camvid, .*cifar10, .*cityscapes"
    for function in (datasets.open_coco, datasets.open_images, datasets.open_masks, datasets.present):
        with pytest.raises(DataError, match=message):
            function("digit", tmp_path)


def test_a_data_set_without_the_view_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data set 'cifar10' has no detection boxes; give a COCO folder with --data"):
        datasets.open_coco("cifar10", tmp_path)
    with pytest.raises(DataError, match=r"data set 'coco' has no image classes; give an \.npz file or an image folder"):
        datasets.open_images("coco", tmp_path)


def test_missing_coco_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"coco: COCO 2017 is missing; unpack train2017\.zip.* or .*--data PATH"):
        datasets.open_coco("coco", tmp_path)


def test_importing_is_cheap() -> None:
    heavy = "import sys, datasets; datasets.names(); print({'torch', 'sklearn', 'scipy', 'PIL'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
