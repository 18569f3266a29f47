"""COCO folders that are fine but unusual."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from kdbench import datasets
from kdbench.datasets import _orientation, coco

if TYPE_CHECKING:
    from conftest import Maker


def test_category_ids_with_gaps_become_labels_in_id_order(maker: Maker) -> None:
    folder = maker.open()
    assert folder.classes == ("cat", "hat") and folder.category_ids == (3, 7)
    assert folder.train.load(0)[2].tolist() == [0] and folder.train.load(1)[2].tolist() == [1]
    assert folder.train.load(0)[1].tolist() == [[5, 6, 15, 14]]
    assert folder.notices == () and folder.name == "mine"


def test_coco_2017_is_found_by_its_own_names_beside_other_years(maker: Maker) -> None:
    root = maker.write().parent
    shutil.copytree(maker.folder, root / "coco")
    for split in ("train", "val"):
        shutil.copytree(root / "coco" / split, root / "coco" / f"{split}2017")
        old = root / "coco" / "annotations" / f"instances_{split}.json"
        shutil.copy(old, old.with_name(f"instances_{split}2017.json"))
    folder = datasets.open_coco("coco", root)
    assert folder.name == "coco" and folder.val.annotation_file.name == "instances_val2017.json"
    assert not folder.is_coco_2017  # two images are not the real one


def test_crowds_are_no_boxes_but_counted(maker: Maker) -> None:
    maker.train["annotations"] += [maker.annotation(103, 11, 7, iscrowd=1), maker.annotation(104, 11, 7, ignore=1)]
    folder = maker.open()
    assert len(folder.train.load(0)[1]) == 1 and folder.train.counts.crowds == 2
    assert folder.notices == ("instances_train.json: 2 crowd annotations are not used as boxes",)


def test_images_without_annotations_stay_in_val_and_leave_train(maker: Maker) -> None:
    maker.train["annotations"].pop()
    maker.val["annotations"].pop()
    folder = maker.open()
    assert folder.train.image_ids.tolist() == [11] and folder.val.image_ids.tolist() == [11, 12]
    _, boxes, labels, image_id = folder.val.load(1)
    assert boxes.shape == (0, 4) and labels.shape == (0,) and image_id == 12
    assert folder.notices == (
        "instances_train.json: 1 of 2 images has no annotation; left out of training",
        "instances_val.json: 1 of 2 images has no annotation; included",
        "instances_train.json: 1 of 2 classes has no box: 'hat'",
        "instances_val.json: 1 of 2 classes has no box: 'hat'",
    )


def test_an_image_with_crowds_alone_trains_as_background(maker: Maker) -> None:
    maker.train["annotations"][1]["iscrowd"] = 1
    split = maker.open().train
    assert len(split) == 2 and len(split.load(1)[1]) == 0


def test_thin_boxes_are_dropped_and_the_first_named(maker: Maker) -> None:
    maker.train["annotations"] += [
        maker.annotation(103, 11, 7, bbox=[5, 5, 0, 9], area=0),
        maker.annotation(104, 11, 7, bbox=[5, 5, 0.5, 9]),
        maker.annotation(105, 11, 7, area=0),
        maker.annotation(106, 11, 7, bbox=[5, 5, -4, 9]),
    ]
    folder = maker.open()
    assert len(folder.train.load(0)[1]) == 1 and folder.train.counts.dropped == 4
    assert "4 boxes dropped" in folder.notices[0] and "first: annotation 103" in folder.notices[0]


def test_boxes_over_the_border_are_clipped_and_the_first_named(maker: Maker) -> None:
    maker.train["annotations"] += [
        maker.annotation(103, 11, 7, bbox=[-3, -2, 10, 10]),
        maker.annotation(104, 11, 7, bbox=[35, 20, 20, 20]),
    ]
    folder = maker.open()
    assert folder.train.load(0)[1].tolist() == [[5, 6, 15, 14], [0, 0, 7, 8], [35, 20, 40, 30]]
    assert "2 boxes clipped" in folder.notices[0] and "first: annotation 103" in folder.notices[0]


def test_a_sliver_that_vanishes_in_float32_is_dropped(maker: Maker) -> None:
    maker.train["annotations"].append(maker.annotation(103, 11, 7, bbox=[39.99999999, 5, 4, 9]))
    split = maker.open().train
    assert len(split.load(0)[1]) == 1 and split.counts.dropped == 1


def test_boxes_follow_their_image_whatever_the_order_in_the_file(maker: Maker) -> None:
    maker.train["annotations"].reverse()
    maker.train["images"].reverse()
    split = maker.open().train
    assert split.image_ids.tolist() == [12, 11]
    assert [split.load(i)[2].tolist() for i in range(2)] == [[1], [0]]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
def test_every_kind_of_image_becomes_rgb(maker: Maker, mode: str) -> None:
    name = "11.tif" if mode == "CMYK" else "11.png"
    maker.train["images"][0]["file_name"] = name
    if mode == "I;16":
        image = Image.fromarray(np.full((30, 40), 0x80FF, dtype=np.uint16))
    else:
        grey = Image.new("RGB", (40, 30), (128, 128, 128))
        image = grey.quantize(4) if mode == "P" else grey.convert(mode)
    image.save(maker.image("train", name), **({"transparency": b"\x10\x20"} if mode == "P" else {}))
    loaded = maker.open().train.load(0)[0]
    assert loaded.mode == "RGB" and loaded.size == (40, 30)
    if mode != "1":
        assert abs(np.asarray(loaded).astype(int) - 128).max() <= 2


def test_an_orientation_tag_is_not_applied(maker: Maker) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (40, 30)).save(maker.image("train", "11.jpg"), exif=tag)
    assert maker.open().train.load(0)[0].size == (40, 30)


def test_images_may_lie_in_folders_below(maker: Maker) -> None:
    (maker.folder / "train" / "deep").mkdir()
    maker.image("train", "11.jpg").rename(maker.image("train", "deep/11.jpg"))
    maker.train["images"][0]["file_name"] = "deep/11.jpg"
    maker.open().train.verify(full=True)


def test_fingerprint_ignores_the_place_and_notices_the_content(maker: Maker, tmp_path: Path) -> None:
    first = maker.open()
    shutil.copytree(maker.folder, tmp_path / "elsewhere" / "copy")
    assert coco.open_folder(tmp_path / "elsewhere" / "copy").fingerprint == first.fingerprint
    (maker.folder / "train" / "notes.txt").write_text("not listed")
    assert maker.open().fingerprint == first.fingerprint
    with maker.image("val", "12.jpg").open("ab") as stream:
        stream.write(b"\0")
    assert maker.open().fingerprint != first.fingerprint
    maker.val["annotations"][0]["bbox"][0] += 1
    assert len({maker.open().fingerprint, first.fingerprint}) == 2


def test_quick_verification_decodes_only_files_that_end_oddly(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    with maker.image("train", "12.jpg").open("ab") as stream:
        stream.write(b"trailing bytes, as some cameras leave them")
    split = maker.open().train
    decoded: list[str] = []
    decode = _orientation.decode

    def spy(file: Path, *expected: Any) -> Image.Image:
        decoded.append(file.name)
        return decode(file, *expected)

    monkeypatch.setattr(_orientation, "decode", spy)
    split.verify()
    assert decoded == ["12.jpg"]
    split.verify(full=True)
    assert decoded == ["12.jpg", "11.jpg", "12.jpg"]
