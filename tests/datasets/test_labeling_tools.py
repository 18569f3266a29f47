"""COCO files as labeling tools and converters write them: read as they mean it, or one error that says what to do."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from kdbench import datasets
from kdbench.datasets import DataError, _file_names, _layouts

if TYPE_CHECKING:
    from conftest import Maker

ORIENTATION = 0x0112
LEFT, RIGHT = (250, 0, 0), (0, 0, 250)


def error_of(maker: Maker) -> str:
    with pytest.raises(DataError) as caught:
        maker.open()
    return str(caught.value)


def save_halves(file: Path, size: tuple[int, int], orientation: int) -> None:
    """A red left and a blue right half as stored, with an orientation tag."""
    image = Image.new("RGB", size, RIGHT)
    image.paste(LEFT, (0, 0, size[0] // 2, size[1]))
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    image.save(file, exif=tag, **({"quality": 95} if file.suffix == ".jpg" else {}))


@pytest.mark.parametrize("first", [0, 2**53 + 1, 10**30, -5])
def test_ids_of_any_size_are_read(maker: Maker, first: int) -> None:
    for content in (maker.train, maker.val):
        for i, image in enumerate(content["images"]):
            image["id"] = first + i
        for i, annotation in enumerate(content["annotations"]):
            annotation |= {"id": first + i, "image_id": first + i}
    folder = maker.open()
    assert folder.val.image_ids.tolist() == [first, first + 1]
    assert [folder.val.load(i)[2].tolist() for i in range(2)] == [[0], [1]] and folder.val.load(1)[3] == first + 1


@pytest.mark.parametrize(("orientation", "turned"), [(6, False), (6, True), (8, True)])
def test_an_orientation_tag_is_applied_where_the_annotated_size_is_turned(
    maker: Maker, orientation: int, turned: bool
) -> None:
    save_halves(maker.image("train", "11.jpg"), (30, 40) if turned else (40, 30), orientation)
    folder = maker.open()
    folder.train.verify()
    image = folder.train.load(0)[0]
    assert image.size == (40, 30)
    red = np.asarray(image)[:, :, 0] > 125
    upper, left = red[:15].mean(), red[:, :20].mean()
    assert (left > 0.9) if not turned else (upper > 0.9 if orientation == 6 else upper < 0.1)
    assert any("1 image is turned by its orientation tag" in notice for notice in folder.notices) == turned


def test_a_tag_that_the_size_does_not_tell_of_is_reported_and_follows_the_other_images(maker: Maker) -> None:
    save_halves(maker.image("train", "11.jpg"), (40, 30), 3)
    folder = maker.open()
    assert "1 image has an orientation tag, which is not applied (first: 11.jpg)" in "".join(folder.notices)
    assert np.asarray(folder.train.load(0)[0])[15, 5, 0] > 200
    save_halves(maker.image("train", "12.jpg"), (30, 40), 6)
    folder = maker.open()
    assert "1 image whose size does not tell is turned by its tag as well" in "".join(folder.notices)
    assert np.asarray(folder.train.load(0)[0])[15, 5, 0] < 50


def test_another_size_than_annotated_is_found_by_quick_verification(maker: Maker) -> None:
    Image.new("RGB", (30, 41)).save(maker.image("train", "12.jpg"))
    with pytest.raises(DataError, match=r"12\.jpg: is 30x41 pixels but its annotation file says 40x30; restore"):
        maker.open().train.verify()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused_when_planning_and_when_loaded(maker: Maker, dtype: Any) -> None:
    maker.train["images"][0]["file_name"] = "11.tif"
    Image.fromarray(np.full((30, 40), 300, dtype)).save(maker.image("train", "11.tif"))
    split = maker.open().train
    for look in (split.verify, lambda: split.load(0)):
        with pytest.raises(DataError, match=r"11\.tif: its pixels are .* of unknown range; save it with 8 bits"):
            look()


def test_tiff_files_of_16_bits_are_scaled(maker: Maker) -> None:
    maker.train["images"][0]["file_name"] = "11.tif"
    Image.fromarray(np.full((30, 40), 0x80FF, np.uint16)).save(maker.image("train", "11.tif"))
    assert np.asarray(maker.open().train.load(0)[0])[0, 0].tolist() == [128, 128, 128]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("iscrowd", "0", "annotation 101 has iscrowd '0'; write 0 or 1, as a number without quotes"),
        ("iscrowd", 2, "has iscrowd 2; write 0 or 1"),
        ("ignore", "false", "has ignore 'false'; write 0 or 1"),
        ("bbox", [True, 1, 5, 5], "has bbox [True, 1, 5, 5]; write [x, y, width, height] in pixels, as numbers"),
        ("bbox", ["1", "2", "9", "9"], "write [x, y, width, height] in pixels, as numbers"),
        ("bbox", [1, 2, 1e400, 9], "has bbox [1, 2, inf, 9]; write finite numbers"),
        ("bbox", [1, 2, 10**400, 9], "write finite numbers"),
        ("area", float("nan"), "has area nan; write finite numbers"),
        ("area", True, "has area True; it must be a number, or left out"),
        ("image_id", 11.0, "has image_id 11.0; it must be a whole number"),
        ("category_id", True, "has category_id True; it must be a whole number"),
    ],
)
def test_fields_are_typed(maker: Maker, key: str, value: Any, message: str) -> None:
    maker.train["annotations"][0][key] = value
    text = error_of(maker)
    assert message in text and str(maker.file("train")) in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", -1),
        ("height", 0),
        ("width", 2 * 10**9),
        ("width", "40"),
        ("file_name", "\ud800.jpg"),
        ("file_name", "a\0"),
    ],
)
def test_sizes_and_names_of_images_are_checked(maker: Maker, key: str, value: Any) -> None:
    maker.train["images"][0][key] = value
    assert f"image 11 has {key} {value!r}; it must be" in error_of(maker)


@pytest.mark.parametrize("flag", [0, False, None, 0.0])
def test_a_flag_that_is_off_is_no_crowd(maker: Maker, flag: Any) -> None:
    maker.train["annotations"][0]["iscrowd"] = flag
    assert maker.open().train.counts.crowds == 0


def test_a_missing_area_is_computed_and_reported(maker: Maker) -> None:
    del maker.train["annotations"][0]["area"]
    maker.train["annotations"][1]["area"] = None
    folder = maker.open()
    assert folder.train.counts.boxes == 2
    assert folder.notices == ("instances_train.json: 2 annotations have no area; it is computed from the box",)


def normalized(annotation: dict[str, Any]) -> None:
    annotation["bbox"] = [0.1, 0.2, 0.5, 0.5]


def without_area(annotation: dict[str, Any]) -> None:
    annotation["area"] = 0


def negative(annotation: dict[str, Any]) -> None:
    annotation["bbox"][2] = -1


def crowd(annotation: dict[str, Any]) -> None:
    annotation["iscrowd"] = 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (normalized, "2 with a side below 1 pixel; the first is annotation 101, bbox [0.1, 0.2, 0.5, 0.5], area 80; "),
        (normalized, "these look like fractions: multiply them by the image's width and height"),
        (without_area, "2 with an area of 0 or less; the first is annotation 101, bbox [5, 6, 10, 8], area 0; "),
        (negative, "2 with a side below 1 pixel; the first is annotation 101, bbox [5, 6, -1, 8]"),
        (crowd, "2 crowds (iscrowd or ignore); boxes are"),
    ],
)
def test_boxes_that_are_all_left_out_are_counted_with_the_reason(
    maker: Maker, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    for annotation in maker.train["annotations"]:
        change(annotation)
    text = error_of(maker)
    assert "no object for train: all 2 annotations are left out" in text and reason in text


def test_two_categories_of_one_name_are_refused(maker: Maker) -> None:
    maker.train["categories"][0]["name"] = "cat"
    assert "categories 7 and 3 are both named 'cat'; rename one, or give their annotations one category_id" in error_of(
        maker
    )


@pytest.mark.parametrize(
    "name",
    [
        "./Ü b.jpg",
        "/home/me/project/train/Ü b.jpg",
        "C:\\data\\train\\Ü b.jpg",
        "train/Ü b.jpg",
        "%C3%9C%20b.jpg",
        "https://tool.example/media/%C3%9C%20b.jpg",
        "/data/local-files/?d=Ü b.jpg",
        unicodedata.normalize("NFD", "Ü b.jpg"),
        "ü B.JPG",
        "x/../Ü b.jpg",
    ],
)
def test_file_names_of_labeling_tools_are_found_and_reported(maker: Maker, name: str) -> None:
    existing = unicodedata.normalize("NFC", "Ü b.jpg")
    maker.image("train", "11.jpg").rename(maker.image("train", existing))
    maker.train["images"][0]["file_name"] = name
    folder = maker.open()
    assert folder.train.path(0).name == existing and folder.train.load(0)[3] == 11
    assert folder.notices == (
        f"instances_train.json: 1 file name differs from the file (first: {name!r} is {existing!r})",
    )


def test_a_file_deeper_in_the_folder_is_found() -> None:
    resolved = _file_names.resolve(["a.jpg", "day\\b.jpg"], ["images/a.jpg", "x/day/b.jpg", "night/b.jpg"])
    assert resolved.names == ("images/a.jpg", "x/day/b.jpg") and not resolved.missing


@pytest.mark.parametrize(
    ("names", "present", "missing"),
    [
        (["a.jpg"], ["day/a.jpg", "night/a.jpg"], ("a.jpg",)),  # either could be meant
        (["day/a.jpg", "night/a.jpg"], ["a.jpg"], ("day/a.jpg", "night/a.jpg")),  # both would be one file
        (["day/a.jpg"], ["night/a.jpg"], ("day/a.jpg",)),
        (["A.jpg"], ["a.jpg", "a.JPG"], ("A.jpg",)),
        (["../a.jpg/x"], ["a.jpg"], ("../a.jpg/x",)),
    ],
)
def test_an_ambiguous_name_is_not_guessed(names: list[str], present: list[str], missing: tuple[str, ...]) -> None:
    assert _file_names.resolve(names, present).missing == missing


def test_a_missing_file_is_shown_beside_the_nearest_one(maker: Maker) -> None:
    maker.train["images"][0]["file_name"] = "11.jpeg"
    text = error_of(maker)
    assert "11.jpeg: missing, one of 1 of 2 images" in text and "the most similar file there is '11.jpg'" in text


def export(maker: Maker, target: Path, val: str, marker: str, images: str, prefix: str = "") -> Path:
    """The maker's two splits as a tool exports them."""
    for split, name, content in (("train", "train", maker.train), ("val", val, maker.val)):
        shutil.copytree(maker.folder / split, target / name / images)
        for image in content["images"]:
            image["file_name"] = prefix + image["file_name"]
        (target / name / marker).write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    ("val", "marker", "images", "prefix"),
    [
        ("valid", "_annotations.coco.json", "", ""),
        ("test", "_annotations.coco.json", "", ""),
        ("val", "labels.json", "data", ""),
        ("val", "result.json", "images", "images\\"),
    ],
)
def test_exports_with_a_folder_for_each_split_are_read(
    maker: Maker, tmp_path: Path, val: str, marker: str, images: str, prefix: str
) -> None:
    path = export(maker, tmp_path / "export", val, marker, images, prefix)
    folder = datasets.open_coco("", tmp_path, path)
    folder.val.verify(full=True)
    assert (len(folder.train), len(folder.val)) == (2, 2)
    assert any(f"{path / val} is used for validation" in notice for notice in folder.notices) == (val != "val")


def test_cvats_image_folders_are_read(maker: Maker) -> None:
    (maker.folder / "images").mkdir()
    for split in ("train", "val"):
        maker.image(split, "").rename(maker.folder / "images" / split)
    assert len(maker.open().val) == 2


@pytest.mark.parametrize(
    ("file", "description", "fix"),
    [
        ("labels.json", "a FiftyOne export", "export a training and a validation split, and put labels.json and data/"),
        ("result.json", "a Label Studio export", "put result.json and its images of each into"),
        ("annotations/instances_default.json", "a COCO folder", "in CVAT as subsets named train and val"),
        (
            "train/_annotations.coco.json",
            "a Roboflow export",
            "val/_annotations.coco.json: missing; .* both splits",
        ),
        ("Annotations/1.xml", "Pascal VOC annotations", "a list of images for train and val; .* ImageSets/Main"),
        ("VOCdevkit/VOC2012/Annotations/1.xml", "Pascal VOC annotations", "a list of images for train and val"),
        ("train/1.xml", "Pascal VOC annotations", "without a list of images for val"),
        ("train/labels/1.txt", "YOLO text labels", r"fiftyone convert --input-type fiftyone\.types\.YOLOv5Dataset"),
        ("labels/train/1.txt", "YOLO text labels", "convert them to COCO"),
        ("train/_annotations.csv", "boxes in a CSV file", "export or convert it as COCO"),
    ],
)
def test_other_layouts_are_named_with_the_conversion(tmp_path: Path, file: str, description: str, fix: str) -> None:
    target = tmp_path / "mine" / file
    target.parent.mkdir(parents=True)
    target.write_text("{}")
    layout = _layouts.detect(tmp_path / "mine")
    assert layout is not None and layout.description.startswith(description)
    for open_set in (datasets.open_coco, datasets.open_images):
        with pytest.raises(
            DataError, match=fix if open_set is datasets.open_coco else "has boxes and no image classes"
        ):
            open_set("", tmp_path, tmp_path / "mine")


def test_a_folder_of_images_has_no_boxes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "labels").mkdir(parents=True)  # a class
        Image.new("RGB", (8, 8)).save(tmp_path / split / "labels" / "1.png")
    assert _layouts.detect(tmp_path) is None


def test_a_tag_in_a_png_is_applied_as_well(maker: Maker) -> None:
    maker.train["images"][0]["file_name"] = "11.png"
    save_halves(maker.image("train", "11.png"), (30, 40), 6)
    assert maker.open().train.load(0)[0].size == (40, 30)
