"""Pascal VOC annotations as VOC and labeling tools write them: read like COCO's, or one error that names the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from kdbench import datasets
from kdbench.datasets import DataError
from kdbench.datasets.coco import CocoFolder, ground_truth

Box = tuple[str, int, int, int, int]
BOXES: dict[str, Sequence[Box]] = {
    "a": [("dog", 3, 5, 20, 25), ("cat", 1, 1, 40, 30)],
    "b": [],
    "c": [("cat", 10, 10, 30, 30)],
    "d": [("dog", 10, 12, 30, 28)],
}
TRAIN, VAL = ("a", "b", "c"), ("d",)


def xml(name: str, database: str = "Unknown", difficult: Sequence[int] = ()) -> str:
    objects = "".join(
        f"<object><name>{kind}</name><difficult>{int(i in difficult)}</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for i, (kind, x1, y1, x2, y2) in enumerate(BOXES[name])
    )
    return (
        f"<annotation><filename>{name}.png</filename><source><database>{database}</database></source>"
        f"<size><width>40</width><height>30</height><depth>3</depth></size>{objects}</annotation>"
    )


def write(images: Path, annotations: Path, names: Sequence[str], **options: object) -> None:
    for folder in (images, annotations):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (40, 30), (9, 9, 9)).save(images / f"{name}.png")
        (annotations / f"{name}.xml").write_text(xml(name, **options))  # type: ignore[arg-type]


def tree(root: Path, **options: object) -> Path:
    """VOC's own layout."""
    write(root / "JPEGImages", root / "Annotations", (*TRAIN, *VAL), **options)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, names in (("train", TRAIN), ("val", VAL)):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def devkit(root: Path) -> Path:
    tree(root / "VOCdevkit" / "VOC2012")
    return root


def beside(root: Path) -> Path:
    """Roboflow's: XML files beside the images."""
    for split, names in (("train", TRAIN), ("valid", VAL)):
        write(root / split, root / split, names)
    return root


def fiftyone(root: Path) -> Path:
    for split, names in (("train", TRAIN), ("validation", VAL)):
        write(root / split / "data", root / split / "labels", names)
    return root


def open_at(path: Path) -> CocoFolder:
    return datasets.open_coco("", path.parent, path)


@pytest.mark.parametrize("layout", [tree, devkit, beside, fiftyone])
def test_boxes_classes_and_images_are_read(layout: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = open_at(layout(tmp_path / "mine"))
    assert folder.name == "mine" and folder.classes == ("cat", "dog")
    assert (folder.train.counts.images, len(folder.train), len(folder.val)) == (3, 2, 1)
    image, boxes, labels, _ = folder.train.load(0)
    assert image.size == (40, 30) and labels.tolist() == [1, 0]
    assert boxes.tolist() == [[3, 5, 20, 25], [1, 1, 40, 30]]
    assert folder.val.load(0)[1].tolist() == [[10, 12, 30, 28]]
    folder.train.verify(full=True)
    assert any("1 of 3 images has no annotation" in notice for notice in folder.notices)


def test_the_files_of_voc_itself_count_pixels_from_one(tmp_path: Path) -> None:
    folder = open_at(tree(tmp_path / "mine", database="The VOC2007 Database"))
    assert folder.train.load(0)[1].tolist() == [[2, 4, 20, 25], [0, 0, 40, 30]]


def test_difficult_objects_are_crowds(tmp_path: Path) -> None:
    folder = open_at(tree(tmp_path / "mine", difficult=(1,)))
    assert folder.train.counts.crowds == 1 and folder.train.load(0)[2].tolist() == [1]
    truth, _, _ = ground_truth(folder.train.annotation_file)
    assert [each["iscrowd"] for each in truth["annotations"]] == [0, 1, 0]


def test_a_class_of_one_split_is_a_class_of_both(tmp_path: Path) -> None:
    root = tree(tmp_path / "mine")
    (root / "ImageSets" / "Main" / "train.txt").write_text("c\n")
    folder = open_at(root)
    assert folder.classes == ("cat", "dog") and folder.empty_classes == ("dog",)


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    first, second = open_at(tree(tmp_path / "one")), open_at(tree(tmp_path / "two"))
    assert first.fingerprint == second.fingerprint
    (tmp_path / "two" / "Annotations" / "d.xml").write_text(xml("d").replace("28", "27"))
    assert open_at(tmp_path / "two").fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Annotations/a.xml", None, "Annotations/a.xml: cannot be read (No such file or directory)"),
        ("Annotations/a.xml", "<annotation>", "Annotations/a.xml: is not valid XML"),
        ("Annotations/a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "defines XML entities"),
        ("Annotations/a.xml", "<annotation/>", "size/width of the image is ''; write a number of pixels"),
        ("Annotations/a.xml", xml("a").replace(">40</width", ">0</width"), "size is 0x30 pixels"),
        ("Annotations/a.xml", xml("a").replace("<name>dog</name>", "<name> </name>"), "an object has no name"),
        ("Annotations/a.xml", xml("a").replace(">20</xmax", ">many</xmax"), "bndbox/xmax of dog is 'many'"),
        ("Annotations/a.xml", xml("a").replace(">20</xmax", ">nan</xmax"), "write finite numbers"),
        ("Annotations/a.xml", xml("a").replace(">3</xmin", ">300</xmin").replace(">20<", ">320<"), "outside image"),
        ("JPEGImages/a.png", None, "JPEGImages/a.png: missing, one of 1 of 3 images that train.txt lists"),
        ("ImageSets/Main/train.txt", "", "train.txt: lists no image"),
        ("ImageSets/Main/train.txt", "b", "train.txt: no object for train"),
        ("ImageSets/Main/val.txt", None, "without a list of images for val; a VOC folder has ImageSets/Main/train.txt"),
    ],
)
def test_a_fault_is_one_error(file: str, text: str | None, message: str, tmp_path: Path) -> None:
    root = tree(tmp_path / "mine")
    (root / file).unlink() if text is None else (root / file).write_text(text)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        open_at(root)
    assert "\n" not in str(error.value)


def test_two_data_sets_below_one_folder_are_an_error(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        tree(tmp_path / "VOCdevkit" / year)
    with pytest.raises(DataError, match="VOC2007 and .*VOC2012 are data sets of their own; give one of them"):
        open_at(tmp_path)
