"""Folders of images: what is read from them, and one error for each fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from kdbench import datasets
from kdbench.datasets import DataError, _image_folder, _images
from kdbench.datasets.base import FileSplit, ImageSet
from kdbench.tasks.classification import ClassificationTask

FILES = ("b.JPEG", "a.png", "c.webp", "d.bmp", "e.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Classes "cat" and "Ant"; five images each in train, one in val."""
    path = tmp_path / "mine"
    for split, files in (("train", FILES), ("val", ("v.jpg",))):
        for shade, name in ((90, "cat"), (180, "Ant")):
            (path / split / name).mkdir(parents=True)
            for i, file in enumerate(files):
                Image.new("RGB", (10 + i, 12), (shade, 0, i)).save(path / split / name / file)
    return path


def open_at(path: Path) -> ImageSet:
    return datasets.open_images("", path.parent, path)


def test_classes_and_order_are_those_of_torchvision(folder: Path) -> None:
    data, theirs = open_at(folder), ImageFolder(folder / "train")
    assert isinstance(data.train, FileSplit)
    assert list(data.classes) == theirs.classes == ["Ant", "cat"]
    assert [
        (str(file), label) for file, label in zip(data.train.files, data.train.labels, strict=True)
    ] == theirs.samples
    assert data.train.labels.dtype == np.int64
    assert data.name == "mine" and data.epoch_images == 10 and len(data.val) == 2 and data.resolution is None
    assert data.mean == (0.485, 0.456, 0.406) and data.std == (0.229, 0.224, 0.225)


def test_images_are_decoded_to_rgb_when_asked_for(folder: Path) -> None:
    Image.new("L", (7, 5), 40).save(folder / "train" / "Ant" / "a.png")
    train = open_at(folder).train
    assert isinstance(train, FileSplit)
    image = train.load(0)
    assert image.mode == "RGB" and image.size == (7, 5) and image.getpixel((0, 0)) == (40, 40, 40)
    assert train.load(len(train) - 1).size == (14, 12)


def test_test_stands_in_for_val_where_there_is_none(folder: Path) -> None:
    (folder / "val").rename(folder / "test")
    val = open_at(folder).val
    assert isinstance(val, FileSplit) and val.files[0] == folder / "test" / "Ant" / "v.jpg"
    (folder / "val").mkdir()
    with pytest.raises(DataError, match="val: holds no class folder"):
        open_at(folder)


def test_valid_is_preferred_to_test_and_both_are_reported(folder: Path) -> None:
    (folder / "val").rename(folder / "valid")
    (folder / "test" / "Ant").mkdir(parents=True)
    data = open_at(folder)
    assert isinstance(data.val, FileSplit) and data.val.files[0] == folder / "valid" / "Ant" / "v.jpg"
    assert data.notices == (f"{folder / 'valid'} is used for validation, {folder / 'test'} is not used",)


def test_full_verification_decodes_every_image(folder: Path) -> None:
    file = folder / "train" / "cat" / "e.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    data = open_at(folder)
    ClassificationTask.verify(data)
    with pytest.raises(DataError, match=r"cat/e\.jpg: cannot be decoded"):
        ClassificationTask.verify(data, full=True)


def test_only_formats_of_photographs_are_decoded(folder: Path) -> None:
    (folder / "train" / "cat" / "e.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\xff\xd9")
    data = open_at(folder)
    with pytest.raises(DataError, match=r"cat/e\.jpg: cannot be decoded \(no readable image of JPEG, PNG"):
        ClassificationTask.verify(data, full=True)


def test_nested_images_count_and_hidden_ones_do_not(folder: Path) -> None:
    ant = folder / "train" / "Ant"
    (ant / "more").mkdir()
    (ant / "a.png").rename(ant / "more" / "a.png")
    (ant / "._b.JPEG").write_bytes(b"no image")
    (ant / "more" / "deeper").mkdir()
    (ant / "c.webp").rename(ant / "more" / "deeper" / "c.webp")
    theirs = sorted(file for file, _ in ImageFolder(folder / "train").samples if "._b" not in file)
    (folder / "train" / ".cache").mkdir()
    data = open_at(folder)
    assert isinstance(data.train, FileSplit) and len(data.train) == 10
    names = ["b.JPEG", "d.bmp", "e.jpg", "more/a.png", "more/deeper/c.webp"]
    assert data.train.files[:5] == tuple(ant / name for name in names)
    assert sorted(map(str, data.train.files)) == theirs
    below = "2 images are in folders below the class folders (first: Ant/more/a.png); read"
    assert data.notices == (f"{folder / 'train'}: {below}",)


def test_a_link_to_a_folder_above_is_refused_at_once(folder: Path) -> None:
    for name in ("again", "and_again"):  # two would be followed on 2^40 paths
        (folder / "train" / "cat" / name).symlink_to(folder / "train" / "cat")
    with pytest.raises(DataError, match=r"cat/(and_)?again: is a link to a folder above it"):
        open_at(folder)


def test_links_to_other_folders_are_followed(folder: Path) -> None:
    (folder / "train" / "cat").rename(folder.parent / "cats")
    (folder / "train" / "cat").symlink_to(folder.parent / "cats")
    (folder.parent / "cats" / "more").symlink_to(folder / "val" / "cat")
    assert len(open_at(folder).train) == 11


def test_files_that_are_no_images_are_left_out_and_said(folder: Path) -> None:
    assert open_at(folder).notices == ()
    for name in ("b.txt", "a.csv"):
        (folder / "val" / "cat" / name).write_text("")
    assert open_at(folder).notices == (f"{folder / 'val'}: 2 files are not images (first: cat/a.csv); left out",)
    (folder / "val" / "cat" / "a.csv").unlink()
    assert open_at(folder).notices == (f"{folder / 'val'}: 1 file is not an image (first: cat/b.txt); left out",)


def test_the_fingerprint_knows_names_and_sizes_but_not_the_place(folder: Path) -> None:
    first = open_at(folder).fingerprint
    moved = folder.rename(folder.parent / "elsewhere")
    assert open_at(moved).fingerprint == first and len(first) == 16 and int(first, 16) >= 0
    file = moved / "train" / "cat" / "b.JPEG"
    file.write_bytes(file.read_bytes() + b"\0")
    longer = open_at(moved).fingerprint
    file.rename(file.with_name("z.jpeg"))
    assert len({first, longer, open_at(moved).fingerprint}) == 3


def empty_class(path: Path) -> None:
    (path / "train" / "bee").mkdir()


def no_val_class(path: Path) -> None:
    (path / "val" / "cat").rename(path / "val" / ".cat")


def no_train_class(path: Path) -> None:
    (path / "train" / "cat").rename(path / "train" / ".cat")


def no_train(path: Path) -> None:
    (path / "train").rename(path / "training")


def no_val(path: Path) -> None:
    (path / "val").rename(path / "held_out")


def flat(path: Path) -> None:
    for folder in list((path / "val").iterdir()):
        (folder / "v.jpg").rename(path / "val" / f"{folder.name}.jpg")
        folder.rmdir()


def no_images(path: Path) -> None:
    for file in (path / "val").rglob("*.jpg"):
        file.unlink()


def one_class(path: Path) -> None:
    no_val_class(path)
    no_train_class(path)


def link_to_nothing(path: Path) -> None:
    (path / "train" / "cat" / "x.jpg").symlink_to(path / "away.jpg")


def coco(path: Path) -> None:
    (path / "annotations").mkdir()
    (path / "annotations" / "instances_train2017.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (empty_class, r"train/bee: class without images"),
        (no_val_class, r"val/cat: missing, one of 1 class that train/ has"),
        (no_train_class, r"train/cat: missing, one of 1 class that val/ has"),
        (no_train, r"mine/train: missing; an image folder has train/<class>/"),
        (no_val, r"mine/val: missing; an image folder has"),
        (flat, r"mine/val: holds 2 images but no class folder; sort"),
        (no_images, r"mine/val: no image in any of 2 class folders"),
        (one_class, r"mine/train: holds a single class"),
        (link_to_nothing, r"x\.jpg: is not a file, or a broken link"),
        (coco, r"mine: is a COCO folder"),
    ],
)
def test_a_fault_names_the_folder(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(DataError, match=message):
        open_at(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.7])
def test_a_broken_image_is_named(folder: Path, name: str, kept: float) -> None:
    file = folder / "train" / "cat" / name
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    assert _images.is_complete(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=rf"cat/{name}: cannot be decoded"):
        open_at(folder)


def test_an_odd_end_alone_is_no_fault(folder: Path) -> None:
    file = folder / "train" / "cat" / "e.jpg"
    file.write_bytes(file.read_bytes() + b"trailing words of a camera")
    assert not _images.is_complete(file)
    assert len(open_at(folder).train) == 10


def test_imagenet_lies_below_the_root(folder: Path) -> None:
    root = folder.parent
    assert datasets.present("imagenet", root) is None
    with pytest.raises(DataError, match=r"imagenet: ImageNet is missing; unpack ILSVRC2012_img_train\.tar .*--data"):
        datasets.open_images("imagenet", root)
    folder.rename(root / "imagenet")
    data = datasets.open_images("imagenet", root)
    assert data.name == "imagenet" and datasets.present("imagenet", root) == data.path == root / "imagenet"
    assert (data.mean, data.std) == (_image_folder.MEAN, _image_folder.STD)
