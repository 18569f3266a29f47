"""Inputs that no one should give, through the command line: each ends at once, in one error that names what is wrong.

Whatever is read from outside is here: arguments, tables, reported numbers, data of every format, weights and rows.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kdbench.datasets.digits import write_coco
from kdbench.spec.reported import Reported
from tests.helpers.command import kdbench

pytestmark = pytest.mark.timeout(60)  # an input that hangs is a fault

EXPLAIN = ("--scale", "mini", "--explain")
DEEP = "[" * 100_000
DIGITS = "9" * 5000

Make = Callable[[Path], Any]
"""Makes an input in an empty folder; what it returns is given to the command."""


def command(folder: Path, embedded: Path, *words: str) -> CompletedProcess[str]:
    return kdbench(*words, folder=folder, environment={"KDBENCH_DATA": str(embedded)})


def assert_refused(done: CompletedProcess[str], *names: str) -> None:
    """One error, in printable text, that holds each of `names`; nothing else went wrong."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr + done.stdout, done.stderr
    assert len(done.stderr) < 3000
    assert all(unicodedata.category(char) not in ("Cc", "Cs") for char in done.stderr if char not in "\n\t")
    for name in names:
        assert name in done.stderr, f"{name!r} is not in {done.stderr!r}"


@pytest.fixture
def no_shipped_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """`kdbench check` checks what it is given alone."""
    for names in ("table_names", "recipe_names", "reported_names"):
        monkeypatch.setattr(f"kdbench.launch.check.{names}", list)


# Arguments

ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "unknown table": (["run", "dist/cifar10"], "dist/cifar100"),
    "long table": (["run", "x" * 5000], "File name too long"),
    "path out": (["run", "../../../etc/passwd"], "unknown table"),
    "no folder": (["run", "nowhere/my.yaml"], "nowhere/my.yaml"),
    "long path": (["run", f"{'x' * 5000}.yaml"], "File name too long"),
    "scale": (["run", "dist/cifar100", "--scale", "huge"], "huge"),
    "seeds": (["run", "dist/cifar100", "--seeds", "1000000"], "1000000"),
    "seeds word": (["run", "dist/cifar100", "--seeds", "three"], "three"),
    "seeds twice": (["run", "dist/cifar100", "--seeds", "1,1"], "each seed once"),
    "seeds digits": (["run", "dist/cifar100", "--seeds", DIGITS], "nine digits"),
    "timeout": (["run", "dist/cifar100", "--timeout", "inf"], "--timeout"),
    "memory": (["run", "dist/cifar100", "--memory", "inf"], "--memory"),
    "methods": (["run", "dist/cifar100", "--methods", "dsit"], "dist"),
    "device": (["run", "dist/cifar100", "--device", "gpu"], "gpu"),
    "data": (["run", "dist/cifar100", "--data", "nowhere"], "nowhere"),
    "data twice long": (["run", "dist/cifar100", "--data", "x" * 5000], "x"),
    "teacher": (["run", "dist/cifar100", "--teacher", "nowhere.pt"], "nowhere.pt"),
    "results": (
        ["run", "dist/cifar100", "--scale", "mini", "--results", "/dev/null"],
        "/dev/null",
    ),
    "undecodable": (["table", "caf\udce9"], "is not text"),
    "escape": (["table", "\x1b[31mdist"], "\\x1b[31mdist"),
    "set": (["run", "dist/cifar100", "--scale", "mini", "--set", "lr"], "FIELD=VALUE"),
    "set field": (["run", "dist/cifar100", "--scale", "mini", "--set", "epoch=1"], "epochs"),
    "set twice": (["run", "dist/cifar100", "--scale", "mini", "--set", "lr=1", "--set", "lr=2"], "twice"),
}
ARGUMENTS |= {
    f"set lr={value[:12]}": (["run", "dist/cifar100", *EXPLAIN, "--set", f"lr={value}"], "lr")
    for value in ("nan", ".inf", "-1", "x", "[[", "{a: 1", "null", DIGITS, DEEP, "&a [*a]", "2020-99-99", "!!binary a")
}
ARGUMENTS |= {
    f"set epochs={value[:12]}": (["run", "dist/cifar100", *EXPLAIN, "--set", f"epochs={value}"], "epochs")
    for value in ("1.5", "1e30", "-1", "'3'", "true", "[1]", str(10**30))
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str, tmp_path: Path, embedded_data: Path) -> None:
    words, expected = ARGUMENTS[name]
    assert_refused(command(tmp_path, embedded_data, *words), expected)


# Tables and reported numbers

TABLE: dict[str, Any] = {
    "paper": "mine",
    "title": "A table",
    "citation": "none",
    "task": "classification",
    "dataset": {"full": "cifar100", "mini": "digits"},
    "data_size": {"train_images": 50000, "val_images": 10000, "classes": 100},
    "metric": "top1",
    "recipe": {"full": "cifar_240", "mini": "cifar_mini"},
    "teacher_recipe": {"full": "cifar_240", "mini": "cifar_mini"},
    "pairs": [{"teacher": "resnet56", "student": "resnet20", "mini": {"teacher": "resnet20", "student": "resnet8"}}],
    "methods": [{"method": "none"}, {"method": "kd", "options": {"temperature": 4.0}}],
}
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def with_values(**values: Any) -> str:
    return yaml.safe_dump(TABLE | values)


def with_kd(**options: Any) -> str:
    return with_values(methods=[{"method": "none"}, {"method": "kd", "options": options}])


TABLES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "mapping"),
    "binary": (b"\xff\xfe\x00", "UTF-8"),
    "nul": (b"a: \x00", "not valid YAML"),
    "list": ("- 1", "mapping"),
    "twice": (with_values() + "task: detection\n", "second time"),
    "bomb": (BOMB, "values"),
    "deep": (DEEP, "levels deep"),
    "digits": (f"seeds: [{DIGITS}]", "no plain data"),
    "circle": ("pairs: &a [*a]", "contains itself"),
    "object": ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
    "date": (with_values() + "title2: 2020-01-01", "no plain data"),
    "unknown key": (with_values(metod="x"), "metod"),
    "type": (with_values(seeds="0"), "seeds"),
    "task": (with_values(task="clasification"), "classification"),
    "metric": (with_values(metric="top2"), "top1"),
    "dataset": (with_values(dataset={"full": "cifar1000", "mini": "digits"}), "cifar100"),
    "recipe": (with_values(recipe={"full": "cifar_240", "mini": "../../x"}), "../../x"),
    "network": (with_values(pairs=[TABLE["pairs"][0] | {"mini": {"teacher": "resnet21", "student": "x"}}]), "resnet2"),
    "method": (with_values(methods=[{"method": "none"}, {"method": "kdd"}]), "kd"),
    "option": (with_kd(temprature=1), "temperature"),
    "value": (with_kd(temperature=[1]), "temperature"),
    "infinite": (with_kd(temperature=float("inf")), "temperature"),
    "reported": (with_values(reported=[{"file": "nowhere", "table": "x"}]), "nowhere"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, tmp_path: Path, embedded_data: Path) -> None:
    content, expected = TABLES[name]
    (tmp_path / "mine.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(command(tmp_path, embedded_data, "run", "mine.yaml", *EXPLAIN), expected)


COLUMNS = ",".join(Reported.model_fields)
LINE = "mine,t,cifar100,,a,70,b,60,kd,top1,71,0.1,last,p. 1,primary,"
NUMBERS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "columns"),
    "columns": ("a,b\n", "columns"),
    "binary": (b"\xff\xfe", "UTF-8"),
    "fields": (f"{COLUMNS}\nmine,t\n", "fields"),
    "not a number": (f"{COLUMNS}\n{LINE.replace('0.1', 'nan')}\n", "std"),
    "above 100": (f"{COLUMNS}\n{LINE.replace(',71,', ',171,')}\n", "value"),
    "quote": (f'{COLUMNS}\n"{LINE}\n', "n.csv"),
    "long field": (f"{COLUMNS}\n{LINE}{'x' * 200_000}\n", "n.csv"),
    "twice": (f"{COLUMNS}\n{LINE}\n{LINE}\n", "repeats line 2"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_reported_numbers(name: str, tmp_path: Path, embedded_data: Path) -> None:
    content, expected = NUMBERS[name]
    (tmp_path / "n.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "mine.yaml").write_text(with_values(reported=[{"file": "n.csv", "table": "t"}]))
    assert_refused(command(tmp_path, embedded_data, "table", "mine.yaml"), "n.csv", expected)


# What is not a file

SPECIAL: dict[str, Make] = {
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
}
PLACES = {
    "table": ("mine.yaml", ["table", "mine.yaml"]),
    "arrays": ("mine.npz", ["run", "dist/cifar100", *EXPLAIN, "--data", "mine.npz"]),
    "teacher": ("t.pt", ["run", "dist/cifar100", *EXPLAIN, "--methods", "kd", "--teacher", "t.pt"]),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file(place: str, kind: str, tmp_path: Path, embedded_data: Path) -> None:
    name, words = PLACES[place]
    SPECIAL[kind](tmp_path / name)
    assert_refused(command(tmp_path, embedded_data, *words), name)


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
    assert any("1.png" in line and line.startswith("wrong") for line in done.stdout.splitlines()), done.stdout


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


# Weights


class Command:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch unpickled",)


def weights(change: Callable[[torch.Tensor], Any]) -> Make:
    """A checkpoint of resnet20 with its first tensor changed."""

    def make(path: Path) -> None:
        from kdbench import networks

        state = networks.build("resnet20", 10).state_dict()
        first = next(iter(state))
        torch.save(state | {first: change(state[first])}, path)

    return make


def bomb_of_zeros(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(64 * 2**20))
        archive.writestr("archive/version", "3")


def truncated(path: Path) -> None:
    weights(lambda tensor: tensor)(path)
    path.write_bytes(path.read_bytes()[:-2000])


WEIGHTS: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>404</html>"),
    "truncated": truncated,
    "bomb": bomb_of_zeros,
    "command": lambda path: path.write_bytes(pickle.dumps(Command())),
    "command in zip": lambda path: torch.save({"state_dict": Command()}, path),
    "nothing": lambda path: torch.save({}, path),
    "list": lambda path: torch.save([1, 2], path),
    "nan": weights(lambda tensor: tensor * float("nan")),
    "infinite": weights(lambda tensor: tensor + float("inf")),
    "complex": weights(lambda tensor: tensor.to(torch.complex64)),
    "bool": weights(lambda tensor: tensor > 0),
    "int8": weights(lambda tensor: tensor.to(torch.int8)),
    "shape": weights(lambda tensor: tensor[:1]),
    "no tensor": weights(lambda tensor: "weights"),
}


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str, tmp_path: Path, embedded_data: Path) -> None:
    WEIGHTS[name](tmp_path / "t.pt")
    words = ["run", "dist/cifar100", *EXPLAIN, "--methods", "kd", "--teacher", "t.pt"]
    assert_refused(command(tmp_path, embedded_data, *words), "t.pt")
    assert not (tmp_path / "unpickled").exists()


# Rows

ROWS: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no row"),
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "deep": lambda path: path.write_text(DEEP),
    "digits": lambda path: path.write_text(f'{{"id": {DIGITS}}}'),
    "null": lambda path: path.write_text("null"),
    "escape": lambda path: path.write_text('{"\\u001b[31m": 1}'),
    **SPECIAL,
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("verb", [["table", "dist/cifar100"], ["check"]], ids=["table", "check"])
@pytest.mark.usefixtures("no_shipped_tables")
def test_rows(name: str, verb: list[str], tmp_path: Path, embedded_data: Path) -> None:
    folder = tmp_path / "runs" / "0123456789abcdef"
    folder.mkdir(parents=True)
    ROWS[name](folder / "row.json")
    done = command(tmp_path, embedded_data, *verb, "--results", "runs")
    assert done.returncode == (1 if verb == ["check"] else 0) and "Traceback" not in done.stderr, done.stderr
    assert "0123456789abcdef/row.json" in done.stdout.replace("\n", "")
    assert "\x1b[31m" not in done.stdout
