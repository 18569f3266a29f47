"""Small images from an .npz file or from CIFAR's own pickles: the same data set, and one error for each fault."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torchvision

from kdbench import datasets
from kdbench.datasets import DataError, _arrays, _files
from kdbench.datasets.base import ArraySplit
from kdbench.datasets.cifar10 import CIFAR10
from kdbench.datasets.cifar100 import CIFAR100

REAL = Path(os.environ.get("KDBENCH_TEST_DATA", "nowhere")) / "cifar100"
Arrays = dict[str, Any]


def arrays(classes: int = 3, train: int = 12, val: int = 6, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    content: Arrays = {}
    for split, count in (("train", train), ("test", val)):
        content[f"x_{split}"] = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        content[f"y_{split}"] = (np.arange(count) % classes).astype(np.uint8)
    return content


def write(file: Path, content: Arrays) -> Path:
    np.savez(file, **content)
    return file


def open_npz(folder: Path, content: Arrays) -> datasets.base.ImageSet:
    return datasets.open_images("", folder, write(folder / "mine.npz", content))


def test_an_npz_file_is_a_data_set_called_after_it(tmp_path: Path) -> None:
    content = arrays()
    data = open_npz(tmp_path, content)
    assert data.name == "mine" and data.path == tmp_path / "mine.npz" and data.classes == ("0", "1", "2")
    for split, stored in ((data.train, "train"), (data.val, "test")):
        assert isinstance(split, ArraySplit)
        assert split.images.dtype == np.uint8 and np.array_equal(split.images, content[f"x_{stored}"])
        assert split.labels.dtype == np.int64 and np.array_equal(split.labels, content[f"y_{stored}"])
    assert data.epoch_images == len(data.train) == 12 and data.resolution is None
    pixels = content["x_train"].reshape(-1, 3) / 255
    assert np.allclose(data.mean, pixels.mean(axis=0), rtol=1e-12)
    assert np.allclose(data.std, pixels.std(axis=0), rtol=1e-12)


def test_labels_in_a_column_are_read_as_keras_writes_them(tmp_path: Path) -> None:
    content = arrays()
    column = content | {name: content[name][:, None] for name in ("y_train", "y_test")}
    assert open_npz(tmp_path, column).fingerprint == open_npz(tmp_path, content).fingerprint


@pytest.mark.parametrize("array", ["class_names", "fine_names"])
def test_class_names_are_read_where_there_are_any(tmp_path: Path, array: str) -> None:
    assert open_npz(tmp_path, arrays() | {array: np.array(["ant", "bee", "cat"])}).classes == ("ant", "bee", "cat")


def test_the_fingerprint_knows_every_pixel_and_label_but_not_the_order(tmp_path: Path) -> None:
    whole = open_npz(tmp_path, arrays()).fingerprint
    assert len(whole) == 16 and int(whole, 16) >= 0
    turned = arrays()
    for array in ("x_train", "y_train"):
        turned[array] = turned[array][::-1]
    assert open_npz(tmp_path, turned).fingerprint == whole
    assert open_npz(tmp_path, arrays() | {"y_train": arrays()["y_train"].astype(np.int32)}).fingerprint == whole
    others = []
    for array in ("x_train", "y_train", "x_test", "y_test"):
        changed = arrays()
        changed[array].flat[0] = (int(changed[array].flat[0]) + 1) % 3
        others.append(open_npz(tmp_path, changed).fingerprint)
    swapped = arrays()
    swapped["y_test"][[0, 1]] = swapped["y_test"][[1, 0]]
    others.append(open_npz(tmp_path, swapped).fingerprint)
    assert len({whole, *others}) == 6


def without(array: str) -> Callable[[Arrays], Any]:
    return lambda content: content.pop(array)


def putting(**changes: Any) -> Callable[[Arrays], Any]:
    return lambda content: content.update(changes)


ZEROS = np.zeros((12, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("x_test"), r"array x_test is missing; an \.npz file holds x_train"),
        (without("y_train"), r"array y_train is missing"),
        (putting(x_train=np.zeros((12, 8, 8, 3))), r"x_train is float64 but must be uint8"),
        (putting(x_test=np.zeros((6, 3, 8, 8), np.uint8)), r"x_test has shape \[6, 3, 8, 8\] .*\[N, H, W, 3\]"),
        (putting(x_test=np.zeros((6, 8, 8), np.uint8)), r"x_test has shape \[6, 8, 8\]"),
        (putting(x_test=np.zeros((6, 8, 0, 3), np.uint8)), r"x_test has shape \[6, 8, 0, 3\]"),
        (putting(x_test=np.zeros((6, 4, 8, 3), np.uint8)), r"x_test holds 4x8 images but x_train 8x8"),
        (putting(y_train=np.zeros(12)), r"y_train is float64 but must hold whole numbers"),
        (putting(y_train=np.zeros((12, 3), int)), r"y_train has shape \[12, 3\] .*argmax"),
        (putting(y_train=np.zeros((12, 1, 1), int)), r"y_train has shape \[12, 1, 1\] .*flatten"),
        (putting(y_train=np.array([0, 1, 2 * 10**9] * 4)), r"y_train holds label 2000000000 but 12 images"),
        (putting(y_train=np.zeros(11, int)), r"x_train holds 12 images but y_train 11 labels"),
        (putting(x_test=ZEROS[:0], y_test=np.zeros(0, int)), r"x_test holds no image"),
        (putting(y_test=np.array([0, 1, 2, 3, 0, 1])), r"y_test holds label 3 at position 3 but there are 3 classes"),
        (putting(y_test=np.array([0, 1, 2, -1, 0, 1])), r"y_test holds label -1 at position 3"),
        (putting(y_train=np.array([-1, 1, 2] * 4)), r"y_train holds label -1 at position 0"),
        (putting(y_train=np.array([0, 2, 2] * 4)), r"y_train has no image of class 1 \(1\), one of 1 such"),
        (putting(y_train=np.array([0, 1, 2**40] * 4)), r"y_train holds label 1099511627776"),
        (putting(y_train=np.zeros(12, int)), r"y_train has a single class"),
        (putting(class_names=np.array(["a", "b"])), r"y_train holds label 2 .* but there are 2 classes"),
        (putting(class_names=np.array(list("abcd"))), r"y_train has no image of class 3 \(d\)"),
        (putting(class_names=np.array(["a", "b", "a"])), r"class_names names classes 0 and 2 both 'a'; rename one"),
        (putting(class_names=np.arange(3)), r"class_names is int64 \[3\]"),
        (putting(x_train=ZEROS), r"x_train has one value in all pixels of a channel"),
        (putting(y_train=np.array([None] * 12)), r"array y_train cannot be read: it holds Python objects"),
    ],
)
def test_a_fault_names_the_file_and_the_array(tmp_path: Path, damage: Callable[[Arrays], Any], message: str) -> None:
    content = arrays()
    damage(content)
    with pytest.raises(DataError, match=rf"mine\.npz: {message}"):
        open_npz(tmp_path, content)


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    file.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"mine\.npz: is not a readable \.npz file"):
        datasets.open_images("", tmp_path, file)
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match=r"mine\.npz: is not an \.npz file but a single array"):
        datasets.open_images("", tmp_path, file)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.npz", arrays())
    content = bytearray(file.read_bytes())
    content[600] ^= 1  # a pixel of the first array, x_train
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.npz: array x_train cannot be read: it is damaged, truncated"):
        datasets.open_images("", tmp_path, file)
    file.write_bytes(content[:-40])
    with pytest.raises(DataError, match=r"mine\.npz: is not a readable \.npz file"):
        datasets.open_images("", tmp_path, file)


def test_a_header_of_another_size_than_the_array_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.npz", arrays())
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["x_train.npy"] = members["x_train.npy"].replace(b"(12, 8, 8, 3)", b"(99999,8,8,3)")
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(
        DataError, match=r"array x_train cannot be read: its header is of 19199808 bytes, and 2304 follow"
    ):
        datasets.open_images("", tmp_path, file)


def test_arrays_above_the_memory_budget_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "memory_budget", lambda: 2000)
    with pytest.raises(DataError, match=r"mine\.npz: its arrays take more than .* of memory"):
        open_npz(tmp_path, arrays())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((12, 8, 8, 3), np.float32)}, "x_train is float32 but must be uint8"),
        ({"x_test": np.zeros((6, 4, 24), np.uint8)}, r"x_test has shape \[6, 4, 24\]"),
        ({"x_test": np.zeros((6, 8, 9, 3), np.uint8)}, "x_test holds 8x9 images but x_train 8x8"),
        ({"y_test": np.zeros(7, np.int64)}, "x_test holds 6 images but y_test 7 labels"),
        ({"y_train": np.zeros(12)}, "y_train is float64"),
        ({"class_names": np.zeros((3, 4), np.uint8)}, "class_names is uint8"),
    ],
)
def test_what_headers_tell_is_refused_before_any_array_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Arrays, message: str
) -> None:
    monkeypatch.delattr(np.lib.format, "read_array")
    with pytest.raises(DataError, match=message):
        open_npz(tmp_path, arrays() | changes)


def test_a_header_without_end_is_not_read(tmp_path: Path) -> None:
    file, size = write(tmp_path / "mine.npz", arrays()), 2**26
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["y_train.npy"] = np.lib.format.magic(2, 0) + size.to_bytes(4, "little") + b" " * size
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    del content, members
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="array y_train cannot be read: it is damaged, truncated or of another"):
            datasets.open_images("", tmp_path, file)
        assert tracemalloc.get_traced_memory()[1] < size / 8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("path", "message"), [("no.npz", "does not exist"), ("a.txt", "is neither an .npz file nor")])
def test_a_path_that_is_neither_file_nor_folder_of_images_is_refused(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=message):
        datasets.open_images("", tmp_path, tmp_path / path)


class OldType:
    """A NumPy type as the pickles of CIFAR's time hold it, with numbers for booleans."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("u1", 0, 1)


@pytest.fixture
def pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """CIFAR-100's archive with 200 + 100 images, its folder not yet unpacked; the content in return."""
    rng = np.random.default_rng(0)
    content: Arrays = {}
    folder = tmp_path / "away" / "cifar-100-python"
    folder.mkdir(parents=True)
    md5 = {}
    for split, count in (("train", 200), ("test", 100)):
        rows = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = (np.arange(count) % 100).tolist()
        content[f"x_{split}"] = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        content[f"y_{split}"] = np.array(labels)
        (folder / split).write_bytes(pickle.dumps({"data": rows, "fine_labels": labels, "type": OldType()}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list(CIFAR100.classes)}))
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    archive = tmp_path / CIFAR100.archive
    with tarfile.open(archive, "w:gz") as stream:
        stream.add(folder, folder.name)
    reader = torchvision.datasets.CIFAR100
    monkeypatch.setattr(reader, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(reader, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(reader, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5["meta"]})
    return content


def test_pickles_and_npz_hold_the_same_data_set(tmp_path: Path, pickled: Arrays) -> None:
    assert datasets.present("cifar100", tmp_path) == tmp_path / "cifar-100-python.tar.gz"
    first = datasets.open_images("cifar100", tmp_path)
    assert datasets.present("cifar100", tmp_path) == first.path == tmp_path / "cifar-100-python"
    write(tmp_path / "cifar100.npz", pickled)
    second = datasets.open_images("cifar100", tmp_path)
    assert datasets.present("cifar100", tmp_path) == second.path == tmp_path / "cifar100.npz"
    for data in (first, second):
        assert isinstance(data.train, ArraySplit) and isinstance(data.val, ArraySplit)
        assert data.name == "cifar100" and data.classes == CIFAR100.classes and not data.notices
        assert (data.mean, data.std) == (CIFAR100.mean, CIFAR100.std)
        assert np.array_equal(data.train.images, pickled["x_train"]) and data.train.images.flags.c_contiguous
        assert np.array_equal(data.val.labels, pickled["y_test"])
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_data_and_network_the_error_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", refuse)
    assert datasets.present(name, tmp_path) is None
    message = rf"missing or broken there .*no network.* fetch https://\S*-python\.tar\.gz .*/{name}\.npz"
    with pytest.raises(DataError, match=message):
        datasets.open_images(name, tmp_path)


def test_a_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: Arrays) -> None:
    root = tmp_path / "away"  # where the unpacked folder is
    unpacked = root / "cifar-100-python"
    unpacked.rename(tmp_path / "server")

    def download(*_: object, **__: object) -> None:
        (tmp_path / "server").rename(unpacked)

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", download)
    assert datasets.open_images("cifar100", root).notices == (f"{unpacked}: downloaded",)
    assert datasets.open_images("cifar100", root).notices == ()


def test_an_npz_with_other_classes_is_not_taken_for_cifar(tmp_path: Path) -> None:
    content = arrays(classes=10, train=20, val=10)
    write(tmp_path / "cifar10.npz", content | {"class_names": np.array([*CIFAR10.classes[:9], "lorry"])})
    with pytest.raises(DataError, match=r"cifar10\.npz: class_names holds 10 names and differs .* from name 9 on"):
        datasets.open_images("cifar10", tmp_path)
    write(tmp_path / "cifar10.npz", arrays(classes=9, train=20, val=10))
    with pytest.raises(DataError, match=r"cifar10\.npz: y_train has no image of class 9 \(truck\)"):
        datasets.open_images("cifar10", tmp_path)
    write(tmp_path / "cifar10.npz", content)
    assert datasets.open_images("cifar10", tmp_path).classes == CIFAR10.classes


def test_class_names_are_complete() -> None:
    assert len(CIFAR10.classes) == 10 and len(CIFAR100.classes) == 100
    for cifar in (CIFAR10, CIFAR100):
        assert list(cifar.classes) == sorted(set(cifar.classes))  # both are numbered alphabetically


def test_mean_and_deviation_are_exact_over_many_chunks() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2300, 4, 4, 3), dtype=np.uint8)
    images[..., 2] //= 50
    mean, std = _arrays.mean_and_std(Path("mine.npz"), images)
    pixels = images.reshape(-1, 3) / 255
    assert np.allclose(mean, pixels.mean(axis=0), rtol=1e-9) and np.allclose(std, pixels.std(axis=0), rtol=1e-9)


@pytest.mark.skipif(not REAL.is_dir(), reason="KDBENCH_TEST_DATA names no folder with cifar100/")
def test_real_cifar100_has_the_published_statistics_and_names(tmp_path: Path) -> None:
    file = tmp_path / "cifar100.npz"
    subprocess.run([sys.executable, str(REAL / "unpack.py"), str(file)], check=True)
    data = datasets.open_images("cifar100", tmp_path)
    assert isinstance(data.train, ArraySplit) and isinstance(data.val, ArraySplit)
    assert data.train.images.shape == (50_000, 32, 32, 3) and data.val.images.shape == (10_000, 32, 32, 3)
    assert np.array_equal(np.bincount(data.train.labels), np.full(100, 500))
    assert np.array_equal(np.bincount(data.val.labels), np.full(100, 100))
    mean, std = _arrays.mean_and_std(file, data.train.images)
    assert np.allclose(mean, data.mean, atol=2e-4)
    assert np.allclose(std, data.std, atol=2e-4)
    assert data.fingerprint == "c69ce114e4663d4f"
    assert datasets.open_images("cifar100", tmp_path, fraction=0.25).train.labels.shape == (12_500,)
