"""Images and masks: what is read from Cityscapes' layout and from folders, and one error for each fault."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Cityscapes

from kdbench import datasets
from kdbench.datasets import DataError, cityscapes, digits
from kdbench.datasets._streets import VERSION
from kdbench.datasets.base import IGNORE_INDEX, MaskSet
from kdbench.methods.base import IGNORE_INDEX as METHODS_IGNORE_INDEX

REAL = "KDBENCH_TEST_DATA"
STREETS = {"train": 12, "val": 6}
MASK = np.array([[0, 1, 2, 2], [0, 1, 9, 2], [0, 0, 9, 9]], dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pairs a split of 4x3 pixels in three classes; 9 is void."""
    path = tmp_path / "mine"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (path / kind / split).mkdir(parents=True)
        for name in ("a", "b"):
            Image.new("RGB", (4, 3), (200, 30, 60)).save(path / "images" / split / f"{name}.webp")
            Image.fromarray(MASK).save(path / "masks" / split / f"{name}.png")
    (path / "classes.txt").write_text("sky\nroad\ncar\n\n")
    return path


def open_at(path: Path, ignore_index: int = 9) -> MaskSet:
    return datasets.open_masks("", path.parent, path, ignore_index=ignore_index)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> MaskSet:
    return datasets.open_masks("digits", tmp_path_factory.mktemp("data"), **STREETS)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Two pairs a split in Cityscapes' layout, under its standard labels."""
    path = tmp_path / "cityscapes"
    ids = np.array([[0, 7, 8, 33], [4, 26, 29, 11], [0, 1, 23, 24]], dtype=np.uint8)
    for split in ("train", "val"):
        for city in ("aachen", "bochum"):
            for kind in ("leftImg8bit", "gtFine"):
                (path / kind / split / city).mkdir(parents=True)
            stem = f"{city}_000000_000019"
            Image.new("RGB", (4, 3)).save(path / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
            Image.fromarray(ids).save(path / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png")
    return path


def test_a_folder_of_masks_is_read_in_the_order_of_its_names(folder: Path) -> None:
    data = open_at(folder)
    assert data.name == "mine" and data.classes == ("sky", "road", "car") and data.path == folder
    assert [file.stem for file in data.train.images] == [file.stem for file in data.train.masks] == ["a", "b"]
    assert len(data.val) == 2 and data.val.size(1) == (4, 3)
    image, classes = data.train.load(0)
    assert image.dtype == classes.dtype == np.uint8 and image.shape == (3, 4, 3)
    assert np.array_equal(classes, np.where(MASK == 9, IGNORE_INDEX, MASK))
    assert len(set(data.colors)) == 3 and data.mean == (0.485, 0.456, 0.406)
    data.train.verify()
    data.train.verify(full=True)


def test_void_is_one_number_in_data_and_methods() -> None:
    assert IGNORE_INDEX == METHODS_IGNORE_INDEX


def test_small_splits_are_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = open_at(folder).train
    first = train.load(0)[0]
    assert train.load(0)[0] is first
    monkeypatch.setattr("kdbench.datasets.base.CACHE_BYTES", 4 * 12 * 2 - 1)
    large = open_at(folder).train
    assert large.load(0)[0] is not large.load(0)[0]


def test_the_fingerprint_follows_what_labels_mean_and_not_where_the_folder_lies(folder: Path) -> None:
    whole = open_at(folder).fingerprint
    assert re.fullmatch("[0-9a-f]{16}", whole)
    moved = folder.rename(folder.parent / "elsewhere")
    assert open_at(moved).fingerprint == whole
    assert open_at(moved, ignore_index=255).fingerprint != whole
    (moved / "classes.txt").write_text("sky\nroad\nbus\n")
    assert open_at(moved).fingerprint != whole


def few_bits(depth: int) -> bytes:
    """A grayscale PNG of 4x3 pixels, all of label 1, in so many bits each; Pillow reads them as 85 or 17."""
    row = b"\0" + bytes([0b01010101] if depth == 2 else [0x11, 0x11])
    parts = {b"IHDR": struct.pack(">IIBBBBB", 4, 3, depth, 0, 0, 0, 0), b"IDAT": zlib.compress(3 * row), b"IEND": b""}
    chunks = (
        struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x)) for kind, x in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def damage(name: str) -> Callable[[Path], None]:
    def image(path: Path, mode: str, size: tuple[int, int] = (4, 3), file_format: str | None = None) -> None:
        Image.new(mode, size).save(path, file_format)

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-30])

    faults: dict[str, Callable[[Path], object]] = {
        "16 bits": lambda p: image(p / "masks/train/b.png", "I;16"),
        "palette": lambda p: image(p / "masks/val/a.png", "P"),
        "2 bits": lambda p: (p / "masks/val/a.png").write_bytes(few_bits(2)),
        "4 bits": lambda p: (p / "masks/val/a.png").write_bytes(few_bits(4)),
        "lossy": lambda p: (image(p / "masks/val/a.jpg", "L"), (p / "masks/val/a.png").unlink()),
        "no png": lambda p: image(p / "masks/val/a.png", "L", file_format="JPEG"),
        "nothing": lambda p: (p / "masks/train/a.png").write_bytes(b""),
        "gap": lambda p: (p / "classes.txt").write_text("sky\n\nroad\ncar\n"),
        "one bit": lambda p: image(p / "masks/val/a.png", "1"),
        "color": lambda p: image(p / "masks/val/a.png", "RGB"),
        "size": lambda p: image(p / "masks/train/b.png", "L", (5, 3)),
        "no mask": lambda p: (p / "masks/train/a.png").unlink(),
        "no image": lambda p: (p / "images/val/b.webp").unlink(),
        "doubled": lambda p: image(p / "images/val/b.png", "RGB"),
        "empty": lambda p: [file.unlink() for file in (p / "images/val").iterdir()],
        "no split": lambda p: (p / "masks/val").rename(p / "masks/test"),
        "no list": lambda p: (p / "classes.txt").unlink(),
        "twice": lambda p: (p / "classes.txt").write_text("sky\nroad\nsky\n"),
        "one class": lambda p: (p / "classes.txt").write_text("sky\n"),
        "many": lambda p: (p / "classes.txt").write_text("".join(f"{i}\n" for i in range(256))),
        "text": lambda p: (p / "masks/train/a.png").write_text("no image"),
        "void is a class": lambda p: (p / "classes.txt").write_text("".join(f"{i}\n" for i in range(10))),
        "short list": lambda p: (p / "classes.txt").write_text("sky\nroad\n"),
        "cut mask": lambda p: cut(p / "masks/train/a.png"),
        "cut image": lambda p: cut(p / "images/train/a.webp"),
    }
    return faults[name]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("16 bits", r"masks/train/b\.png: is 16-bit grayscale; save masks as 8-bit grayscale"),
        ("palette", r"masks/val/a\.png: is a palette image, with color indices as values; save masks as 8-bit"),
        ("2 bits", r"masks/val/a\.png: is 2-bit grayscale; save"),
        ("4 bits", r"masks/val/a\.png: is 4-bit grayscale; save"),
        ("lossy", r"images/val/a\.webp: has no mask, like 1 of 2 files; put one of the same name into .* \(\.png\)"),
        ("no png", r"masks/val/a\.png: cannot be read as an image \(it is not a PNG\); copy or download it again"),
        ("nothing", r"masks/train/a\.png: cannot be read as an image \(it is not a PNG\)"),
        ("gap", r"classes\.txt: line 2 is empty; remove it, or name the class"),
        ("one bit", r"masks/val/a\.png: is 1-bit grayscale; save"),
        ("color", r"masks/val/a\.png: has several channels \(RGB\); save"),
        ("size", r"images/train/b\.webp: is 4x3 pixels but its mask has 5x3; give each image a mask of its size"),
        (
            "no mask",
            r"images/train/a\.webp: has no mask, like 1 of 2 files; put one of the same name into .*masks/train",
        ),
        ("no image", r"masks/val/b\.png: has no image, like 1 of 2 files; put"),
        ("doubled", r"images/val/b\.webp: has the same name as b\.png; keep one"),
        ("empty", r"images/val: contains no image; a segmentation set has"),
        ("no split", r"masks/val: cannot be listed \(No such file.*; a segmentation set has"),
        ("no list", r"classes\.txt: cannot be read .*; write the name of a class in each line"),
        ("twice", r"classes\.txt: names 'sky' twice; give every class a different name"),
        ("one class", r"classes\.txt: names 'sky' alone, and of one class nothing can be learned; name the background"),
        ("many", r"classes\.txt: names 256 classes; 2 to 255 are possible"),
        ("text", r"masks/train/a\.png: cannot be read as an image .*; copy or download it again"),
        ("cut image", r"images/train/a\.webp: cannot be decoded .*; copy or download the image again"),
        ("void is a class", r"ignore_index=9: is the class '9' in line 9 of .*classes\.txt, counted from 0; give"),
    ],
)
def test_a_broken_folder_is_refused_when_it_is_opened(folder: Path, fault: str, message: str) -> None:
    damage(fault)(folder)
    with pytest.raises(DataError, match=message):
        open_at(folder)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "short list",
            r"masks/train/a\.png: contains label 2, which is of no class; add it to .*ends at 1, or .*--ignore",
        ),
        ("cut mask", r"masks/train/a\.png: cannot be decoded"),
    ],
)
def test_a_broken_file_is_found_by_verifying(folder: Path, fault: str, message: str) -> None:
    damage(fault)(folder)
    train = open_at(folder).train
    for look in (train.verify, lambda: train.verify(full=True), lambda: train.load(0)):
        with pytest.raises(DataError, match=message):
            look()


def test_masks_of_a_large_split_are_decoded_by_full_verification_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.datasets.base.CACHE_BYTES", 0)
    damage("short list")(folder)
    train = open_at(folder).train
    train.verify()
    with pytest.raises(DataError, match=r"masks/train/a\.png: contains label 2"):
        train.verify(full=True)


def test_hidden_files_and_a_byte_order_mark_do_not_count(folder: Path) -> None:
    (folder / "images/train/._a.webp").write_bytes(b"left by a file manager")
    (folder / "classes.txt").write_bytes("\ufeffsky\r\nroad\r\ncar".encode())
    data = open_at(folder)
    assert len(data.train) == 2 and data.classes == ("sky", "road", "car")


def test_options_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown data option: 'ignore_indx'\. Did you mean 'ignore_index'"):
        datasets.open_masks("", tmp_path, folder, ignore_indx=9)
    for value in (-1, 256, 1.5, True):
        with pytest.raises(DataError, match=rf"ignore_index={value}: must be a whole number, 0 to 255"):
            datasets.open_masks("", tmp_path, folder, ignore_index=value)
    with pytest.raises(DataError, match=r"--ignore-index is of masks, in a mask folder that --data names"):
        datasets.open_masks("digits", tmp_path, ignore_index=9)
    with pytest.raises(DataError, match=r"data option val=0 of 'digits': must be a whole number, 1 or more"):
        datasets.open_masks("digits", tmp_path, val=0)
    with pytest.raises(DataError, match=r"data set 'coco' has no masks; give a mask folder with --data"):
        datasets.open_masks("coco", tmp_path)
    with pytest.raises(DataError, match=r"nothing: is not a folder; put a segmentation set there"):
        datasets.open_masks("", tmp_path, tmp_path / "nothing")


def test_cityscapes_labels_become_the_training_classes(layout: Path) -> None:
    data = datasets.open_masks("cityscapes", layout.parent)
    assert datasets.present("cityscapes", layout.parent) == layout
    assert len(data.classes) == 19 and data.classes[:2] == ("road", "sidewalk") and data.classes[-1] == "bicycle"
    assert data.colors[0] == (128, 64, 128) and data.name == "cityscapes"
    expected = [[IGNORE_INDEX, 0, 1, 18], [IGNORE_INDEX, 13, IGNORE_INDEX, 2], [IGNORE_INDEX, IGNORE_INDEX, 10, 11]]
    assert data.train.load(0)[1].tolist() == expected
    theirs = Cityscapes(str(layout), split="train", mode="fine", target_type="semantic")
    assert sorted(theirs.images) == [str(file) for file in data.train.images]


def test_cityscapes_errors_name_the_missing_file(layout: Path) -> None:
    with pytest.raises(DataError, match=r"cityscapes: Cityscapes is missing; unpack leftImg8bit_trainvaltest\.zip"):
        datasets.open_masks("cityscapes", layout)
    mask = layout / "gtFine/val/bochum/bochum_000000_000019_gtFine_labelIds.png"
    Image.fromarray(np.full((3, 4), 40, dtype=np.uint8)).save(mask)
    with pytest.raises(
        DataError, match=r"labelIds\.png: contains label 40, which is of no class; restore the original"
    ):
        datasets.open_masks("cityscapes", layout.parent).val.load(1)
    mask.unlink()
    with pytest.raises(DataError, match=r"bochum_000000_000019_gtFine_labelIds\.png: missing, one of 1 mask of 2"):
        datasets.open_masks("cityscapes", layout.parent)
    (layout / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(DataError, match=r"aachen_000000_000019_leftImg8bit\.png: missing, one of 1 image of 2"):
        datasets.open_masks("cityscapes", layout.parent)
    (layout / "gtFine/train").rename(layout / "gtFine/trained")
    with pytest.raises(DataError, match=r"gtFine/train: missing; Cityscapes' layout is"):
        datasets.open_masks("cityscapes", layout.parent)


def test_streets_show_digits_background_and_a_void_border(streets: MaskSet) -> None:
    assert streets.classes == ("background", *"0123456789") and streets.name == "digits"
    assert (len(streets.train), len(streets.val)) == (12, 6)
    seen = set()
    for split in (streets.train, streets.val):
        split.verify(full=True)
        for i in range(len(split)):
            image, classes = split.load(i)
            assert image.shape == (128, 256, 3) and classes.shape == (128, 256)
            assert (classes[:3] == IGNORE_INDEX).all() and (classes[:, -3:] == IGNORE_INDEX).all()
            assert (classes[3:-3, 3:-3] != IGNORE_INDEX).all() and (classes == 0).mean() > 0.3
            seen |= set(np.unique(classes).tolist())
    assert seen == {*range(11), IGNORE_INDEX}


def test_streets_are_the_same_bytes_for_the_same_seed(streets: MaskSet, tmp_path: Path) -> None:
    again = datasets.open_masks("digits", tmp_path, **STREETS)
    assert again.fingerprint == streets.fingerprint
    for file in sorted(streets.path.rglob("*.*")):
        assert file.read_bytes() == (again.path / file.relative_to(streets.path)).read_bytes()
    other = datasets.open_masks("digits", tmp_path, seed=1, **STREETS)
    assert other.fingerprint != streets.fingerprint and other.path != again.path


def test_streets_of_version_3(tmp_path: Path) -> None:
    assert VERSION == 3
    assert digits.write_streets(tmp_path, train=3, val=2) == CONTENT, "what is drawn has changed: raise VERSION"


CONTENT = "4cc897b7cccf1e248a268cc9624c4e8dad6508072884a50e422c94592918dfc3"


def test_streets_are_known_by_what_was_asked_for_and_not_by_how_well_they_compress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = datasets.open_masks("digits", tmp_path / "a", train=2, val=1)
    monkeypatch.setattr(digits, "_HUFFMAN_ONLY", 0)
    second = datasets.open_masks("digits", tmp_path / "b", train=2, val=1)
    assert first.train.images[0].stat().st_size != second.train.images[0].stat().st_size
    assert first.fingerprint == second.fingerprint


def test_streets_that_were_half_written_are_written_anew(tmp_path: Path) -> None:
    first = datasets.open_masks("digits", tmp_path, **STREETS)
    first.train.masks[3].unlink()
    again = datasets.open_masks("digits", tmp_path, **STREETS)
    assert again.fingerprint == first.fingerprint and "written again" in again.notices[0]


def test_more_streets_begin_with_the_same(tmp_path: Path) -> None:
    for folder, train in (("few", 2), ("more", 4)):
        (tmp_path / folder).mkdir()
        digits.write_streets(tmp_path / folder, train=train, val=1)
    few = sorted((tmp_path / "few/gtFine/train").rglob("*.png"))
    assert len(few) == 2
    for file in few:
        assert file.read_bytes() == (tmp_path / "more" / file.relative_to(tmp_path / "few")).read_bytes()


def test_the_standard_table_has_nineteen_classes() -> None:
    labels = cityscapes.table()
    assert sorted(label.train_id for label in labels if label.train_id != IGNORE_INDEX) == list(range(19))
    assert {label.id for label in labels} == set(range(34))


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no folder of real data")
def test_camvid_is_read_whole() -> None:
    data = datasets.open_masks("camvid", Path(os.environ[REAL]))
    assert (len(data.train), len(data.val), len(data.classes)) == (367, 101, 11)
    assert data.train.size(0) == (480, 360)
    image, classes = data.val.load(0)
    assert image.shape == (360, 480, 3) and set(np.unique(classes)) <= {*range(11), IGNORE_INDEX}
    same = datasets.open_masks("", data.path.parent, data.path, ignore_index=11)
    assert same.fingerprint == data.fingerprint and same.name == "camvid"


def test_camvid_has_eleven_classes(folder: Path) -> None:
    folder.rename(folder.parent / "camvid")
    with pytest.raises(DataError, match=r"camvid/classes\.txt: names 3 classes, but CamVid has 11; restore"):
        datasets.open_masks("camvid", folder.parent)


def test_camvid_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"camvid: CamVid is missing; put it there as images/\{train,val\}"):
        datasets.open_masks("camvid", tmp_path)
