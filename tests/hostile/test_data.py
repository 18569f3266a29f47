"""Data of every format, through the command line."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbench.datasets.digits import write_coco
from tests.helpers.hostile import DEEP, DIGITS, EXPLAIN, Make, assert_refused, command

pytestmark = pytest.mark.timeout(300)  # an input that hangs is a fault

# Detection data


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco") / "small"
    folder.mkdir()
    write_coco(folder, train=8, val=4, size=96)
    return folder


def everywhere(part: str, **values: Any) -> Callable[[dict[str, Any]], Any]:
    """A change of the annotation file: these values in every record of a part."""

    def change(content: dict[str, Any]) -> Any:
        return content | {part: [record | values for record in content[part]]}

    return change


ANNOTATIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "not an object": (lambda _: [1], "instances_train2017.json"),
    "text": (lambda _: "not json {", "not valid JSON"),
    "deep": (lambda _: DEEP, "nested"),
    "digits": (lambda c: json.dumps(c)[:-1] + f', "x": {DIGITS}}}', "digits"),
    "no images": (lambda c: c | {"images": []}, "image"),
    "images object": (lambda c: c | {"images": {}}, "images"),
    "no annotations": (lambda c: c | {"annotations": []}, "object"),
    "no categories": (lambda c: c | {"categories": []}, "categor"),
    "part missing": (lambda c: {"images": c["images"]}, "annotations"),
    "record": (lambda c: c | {"annotations": [None]}, "annotations"),
    "box of three": (everywhere("annotations", bbox=[1, 2, 3]), "bbox"),
    "box of text": (everywhere("annotations", bbox=["1", "2", "3", "4"]), "bbox"),
    "box not finite": (everywhere("annotations", bbox=[0, 0, float("nan"), 5]), "bbox"),
    "box infinite": (everywhere("annotations", bbox=[0, 0, float("inf"), 5]), "bbox"),
    "box negative": (everywhere("annotations", bbox=[0, 0, -1, 5]), "left out"),
    "box huge": (everywhere("annotations", bbox=[1e308, 1e308, 1e308, 1e308]), "instances_train2017.json"),
    "crowd text": (everywhere("annotations", iscrowd="0"), "iscrowd"),
    "crowd list": (everywhere("annotations", iscrowd=[]), "iscrowd"),
    "category unknown": (everywhere("annotations", category_id=999), "999"),
    "category text": (everywhere("annotations", category_id="1"), "category_id"),
    "image unknown": (everywhere("annotations", image_id=999_999), "999999"),
    "image id bool": (everywhere("images", id=True), "id"),
    "same id": (everywhere("images", id=1), "1"),
    "width text": (everywhere("images", width="96"), "width"),
    "width huge": (everywhere("images", width=10**400), "width"),
    "width zero": (everywhere("images", width=0), "width"),
    "file none": (everywhere("images", file_name=None), "file_name"),
    "file long": (everywhere("images", file_name="x" * 5000), "file_name"),
    "file surrogate": (everywhere("images", file_name="\ud800.jpg"), "file_name"),
    "file nul": (everywhere("images", file_name="a\0b.jpg"), "file_name"),
    "file outside": (everywhere("images", file_name="../../../etc/passwd"), "passwd"),
    "same category": (everywhere("categories", name="cat"), "cat"),
    "category empty": (everywhere("categories", name=""), "name"),
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotations(name: str, coco: Path, tmp_path: Path, embedded_data: Path) -> None:
    change, expected = ANNOTATIONS[name]
    shutil.copytree(coco, tmp_path / "data")
    file = tmp_path / "data" / "annotations" / "instances_train2017.json"
    content = change(json.loads(file.read_bytes()))
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    words = ["run", "dist/coco", *EXPLAIN, "--data", "data", "--methods", "none"]
    assert_refused(command(tmp_path, embedded_data, *words), expected)


# Images


def png(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds one line."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def saved(array: np.ndarray[Any, Any], form: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, form)
    return content.getvalue()


PICTURES: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"not a picture"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "huge": lambda path: path.write_bytes(png(100_000, 100_000)),
    "claims more": lambda path: path.write_bytes(png(64, 64)),
    "int32": lambda path: path.write_bytes(saved(np.full((8, 8), 70_000, dtype=np.int32), "TIFF")),
    "float": lambda path: path.write_bytes(saved(np.full((8, 8), 0.5, dtype=np.float32), "TIFF")),
    "svg": lambda path: path.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "postscript": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.usefixtures("no_shipped_tables")
def test_pictures_of_an_image_folder(name: str, tmp_path: Path, embedded_data: Path) -> None:
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(3):
                (folder / f"{i}.png").write_bytes(saved(np.full((32, 32, 3), 9 * i, dtype=np.uint8), "PNG"))
    PICTURES[name](tmp_path / "data" / "train" / "cat" / "1.png")
    done = command(tmp_path, embedded_data, "check", "--data", "data")
    assert done.returncode == 1 and "Traceback" not in done.stderr + done.stdout, done.stdout + done.stderr
    wrong = [line for line in done.stdout.splitlines() if "1.png" in line and line.startswith("wrong")]
    assert wrong, done.stdout
    if name == "huge":
        assert "tiles" in wrong[0], "a picture that no reader takes at once has to be cut"


# Arrays


def arrays(**changes: Any) -> Make:
    """An .npz of images and labels, with some of its arrays replaced, or left out where None."""

    def make(path: Path) -> None:
        values = {
            "x_train": np.zeros((16, 8, 8, 3), dtype=np.uint8),
            "y_train": np.arange(16) % 2,
            "x_test": np.zeros((8, 8, 8, 3), dtype=np.uint8),
            "y_test": np.arange(8) % 2,
        } | changes
        np.savez(path, **{name: value for name, value in values.items() if value is not None})

    return make


def lying_header(path: Path) -> None:
    arrays()(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(16, 8, 8, 3)", b"(99999999, 8)"))


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (2**36, 8, 8, 3)}
        )
        archive.writestr("x_train.npy", header.getvalue() + bytes(64 * 2**20))


ARRAYS: dict[str, tuple[Make, str]] = {
    "text": (lambda path: path.write_text("no arrays"), "mine.npz"),
    "empty": (lambda path: path.write_bytes(b""), "mine.npz"),
    "truncated": (lambda path: (arrays()(path), path.write_bytes(path.read_bytes()[:700])), "mine.npz"),
    "header": (lying_header, "mine.npz"),
    "bomb": (zip_bomb, "mine.npz"),
    "pickled": (arrays(x_train=np.array([{}, 1], dtype=object)), "mine.npz"),
    "missing": (arrays(y_test=None), "y_test"),
    "length": (arrays(y_train=np.zeros(5, dtype=np.int64)), "y_train"),
    "label": (arrays(y_train=np.full(16, 2_000_000_000)), "y_train"),
    "negative label": (arrays(y_train=np.full(16, -1)), "y_train"),
    "label kind": (arrays(y_train=np.full(16, "cat")), "y_train"),
    "label fraction": (arrays(y_train=np.linspace(0, 1, 16)), "y_train"),
    "image kind": (arrays(x_train=np.full((16, 8, 8, 3), np.nan)), "x_train"),
    "image shape": (arrays(x_train=np.zeros((16, 8), dtype=np.uint8)), "x_train"),
    "complex": (arrays(x_train=np.zeros((16, 8, 8, 3), dtype=np.complex64)), "x_train"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name: str, tmp_path: Path, embedded_data: Path) -> None:
    make, expected = ARRAYS[name]
    make(tmp_path / "mine.npz")
    assert_refused(command(tmp_path, embedded_data, "run", "dist/cifar100", *EXPLAIN, "--data", "mine.npz"), expected)


# Masks


def red(path: Path) -> None:
    path.write_bytes(saved(np.full((32, 32, 3), 200, dtype=np.uint8), "PNG"))


MASKS: dict[str, tuple[Make, str]] = {
    "color": (red, "1.png"),
    "size": (lambda path: path.write_bytes(saved(np.zeros((16, 32), dtype=np.uint8), "PNG")), "1.png"),
    "16 bit": (lambda path: path.write_bytes(saved(np.full((32, 32), 4000, dtype=np.uint16), "PNG")), "1.png"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "1.png"),
    "text": (lambda path: path.write_text("no mask"), "1.png"),
    "missing": (lambda path: path.unlink(), "1.png"),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.usefixtures("no_shipped_tables")
def test_masks(name: str, tmp_path: Path, embedded_data: Path) -> None:
    for split in ("train", "val"):
        for kind, array in (("images", np.zeros((32, 32, 3), np.uint8)), ("masks", np.eye(32, dtype=np.uint8))):
            folder = tmp_path / "data" / kind / split
            folder.mkdir(parents=True)
            for i in range(3):
                (folder / f"{i}.png").write_bytes(saved(array, "PNG"))
    (tmp_path / "data" / "classes.txt").write_text("road\ncar\n")
    make, expected = MASKS[name]
    make(tmp_path / "data" / "masks" / "train" / "1.png")
    done = command(tmp_path, embedded_data, "check", "--data", "data")
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr + done.stdout, done.stdout + done.stderr
    assert expected in done.stdout + done.stderr
