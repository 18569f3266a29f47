"""What every data set promises, run over each one that can be opened here."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

import datasets
from datasets import DataError
from datasets.coco import CocoFolder, CocoSplit

REAL = "KDBENCH_TEST_DATA"  # a folder that holds coco_mini/, a small real COCO folder


@pytest.fixture(scope="module", params=[*datasets.names(), REAL])
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


def test_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown data set: 'digit'\. Did you mean 'digits'\? Available: coco, digits"):
        datasets.open_coco("digit", tmp_path)


def test_missing_coco_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"coco: there is no COCO 2017; unpack train2017\.zip.* or .*--data PATH"):
        datasets.open_coco("coco", tmp_path)


def test_importing_is_cheap() -> None:
    heavy = "import sys, datasets; datasets.names(); print({'torch', 'sklearn', 'scipy', 'PIL'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
