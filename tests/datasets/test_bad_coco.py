"""Bad COCO folders: each is one error that names the file, the culprit and the mend."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from kdbench import datasets
from kdbench.datasets import DataError

if TYPE_CHECKING:
    from conftest import Maker


def error_of(maker: Maker) -> str:
    with pytest.raises(DataError) as caught:
        maker.open()
    return str(caught.value)


def holds(message: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in message, message


def test_box_wholly_outside_its_image(maker: Maker) -> None:
    maker.val["annotations"].append(maker.annotation(103, 12, 7, bbox=[45, 5, 10, 10]))
    holds(
        error_of(maker),
        *(maker.file("val"), "annotation 103", "[45.0, 5.0, 10.0, 10.0]", "image 12 of 40x30 pixels"),
        "correct the box or remove the annotation",
    )


def test_category_missing_from_the_class_list(maker: Maker) -> None:
    maker.train["annotations"].append(maker.annotation(103, 11, 5))
    holds(error_of(maker), maker.file("train"), "annotation 103", "category_id 5", "add the category or correct")


def test_categories_of_train_and_val_differ(maker: Maker) -> None:
    maker.val["categories"][0]["name"] = "hood"
    holds(error_of(maker), maker.file("val"), "instances_train.json", "(7, 'hat')", "list the same ids and names")


def test_annotation_of_an_unlisted_image(maker: Maker) -> None:
    maker.train["annotations"].append(maker.annotation(103, 99, 7))
    holds(error_of(maker), maker.file("train"), "annotation 103", "image 99", "add the image or remove")


@pytest.mark.parametrize("name", ["11.jpg", "./11.jpg", "11.JPG", ".\\11.jpg", "%31%31.jpg"])
def test_two_images_of_one_file(maker: Maker, name: str) -> None:
    maker.train["images"][1]["file_name"] = name
    names = "'11.jpg'" if name == "11.jpg" else f"'11.jpg' and {name!r}"
    holds(error_of(maker), maker.file("train"), f"images 11 and 12 are the same file ({names})", "remove the other")


@pytest.mark.parametrize(("key", "kind", "repeated"), [("images", "image", 11), ("annotations", "annotation", 101)])
def test_repeated_ids(maker: Maker, key: str, kind: str, repeated: int) -> None:
    maker.train[key].append(maker.train[key][0])
    holds(error_of(maker), maker.file("train"), f"{kind} id {repeated} occurs 2 times", "renumber")


def test_repeated_category_id(maker: Maker) -> None:
    maker.train["categories"].append({"id": 3, "name": "dog"})
    holds(error_of(maker), maker.file("train"), "category id 3 occurs 2 times", "renumber")


def test_missing_annotation_file(maker: Maker) -> None:
    maker.write()
    maker.file("val").unlink()
    with pytest.raises(DataError, match=re.escape(f"{maker.folder}/annotations/instances_val*.json: missing")):
        datasets.open_coco("coco", maker.folder, maker.folder)


def test_missing_annotation_file_of_coco_2017(tmp_path: Path) -> None:
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        datasets.open_coco("coco", tmp_path)
    expected = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    holds(str(caught.value), expected, "cannot be read", "put the COCO annotation file there")


def test_truncated_annotation_file_names_the_byte(maker: Maker) -> None:
    maker.train["info"] = {"description": "Gemälde"}
    maker.train["annotations"].insert(0, maker.train.pop("info"))
    maker.write()
    text = json.dumps(maker.train, ensure_ascii=False).encode()
    cut = text.rindex(b'"categories"')
    maker.file("train").write_bytes(text[:cut])
    with pytest.raises(DataError) as caught:
        datasets.open_coco("coco", maker.folder, maker.folder)
    holds(str(caught.value), maker.file("train"), f"at byte {cut} of {cut}", "truncated", "copy or download it again")


@pytest.mark.parametrize("content", [b"[]", b'{"images": []}', b"\xff\xfe\x00"])
def test_annotation_file_of_another_kind(maker: Maker, content: bytes) -> None:
    maker.write()
    maker.file("train").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(maker.file("train")))):
        datasets.open_coco("coco", maker.folder, maker.folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"bbox": [1, 2, 3]}, "write [x, y, width, height]"),
        ({"bbox": None}, "bbox None; it must be a list"),
        ({"bbox": [1, 2, float("nan"), 3]}, "write finite numbers"),
        ({"area": "big"}, "area 'big'; it must be a number"),
        ({"image_id": "11"}, "image_id '11'; it must be a whole number"),
        ({"category_id": 3.5}, "category_id 3.5; it must be a whole number"),
    ],
)
def test_fields_of_the_wrong_kind(maker: Maker, changes: dict[str, object], complaint: str) -> None:
    maker.train["annotations"].append({**maker.annotation(103, 11, 7), **changes})
    holds(error_of(maker), maker.file("train"), "annotation 103", complaint)


def test_several_annotation_files_fit(maker: Maker) -> None:
    maker.write()
    maker.file("train2014").write_text("{}")
    with pytest.raises(DataError) as caught:
        datasets.open_coco("coco", maker.folder, maker.folder)
    holds(str(caught.value), "instances_train.json, instances_train2014.json", "keep one of them")


def test_missing_folders(maker: Maker, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: is not a folder; put a COCO data set there: annotations/"):
        datasets.open_coco("coco", tmp_path, tmp_path / "nowhere")
    maker.image("val", "").rename(tmp_path / "away")
    holds(error_of(maker), maker.folder / "val", "missing", "put the images of instances_val.json there")


def test_missing_images_name_the_first_and_how_many(maker: Maker) -> None:
    for name in ("11.jpg", "12.jpg"):
        maker.image("train", name).unlink()
    holds(error_of(maker), maker.image("train", "11.jpg"), "one of 2 of 2", "put them there")


def test_no_image_to_train_on(maker: Maker) -> None:
    maker.train["annotations"] = []
    holds(error_of(maker), maker.file("train"), "no object for train", "add images with annotations")


def truncate(file: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    file.write_bytes(file.read_bytes()[:-200])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def no_image(file: Path) -> None:
    file.write_bytes(b"\xff\xd8 not an image")


@pytest.mark.parametrize("break_image", [truncate, empty, no_image])
@pytest.mark.parametrize("name", ["12.jpg", "12.png"])
def test_broken_image_is_named_when_loaded_and_when_verified(maker: Maker, break_image: object, name: str) -> None:
    maker.train["images"][1]["file_name"] = name
    break_image(maker.image("train", name))  # type: ignore[operator]
    split = maker.open().train
    split.load(0)
    for look in (lambda: split.load(1), split.verify, lambda: split.verify(full=True)):
        with pytest.raises(DataError) as caught:
            look()
        holds(str(caught.value), maker.image("train", name), "cannot be decoded", "copy or download the image again")


def test_image_of_another_size_than_annotated(maker: Maker) -> None:
    Image.new("RGB", (30, 40)).save(maker.image("val", "11.jpg"))
    split = maker.open().val
    with pytest.raises(DataError) as caught:
        split.load(0)
    holds(str(caught.value), maker.image("val", "11.jpg"), "is 30x40 pixels", "says 40x30", "restore the original")


def test_image_deleted_after_opening(maker: Maker) -> None:
    split = maker.open().train
    maker.image("train", "11.jpg").unlink()
    for look in (lambda: split.load(0), split.verify):
        with pytest.raises(DataError, match=re.escape(str(maker.image("train", "11.jpg")))):
            look()
