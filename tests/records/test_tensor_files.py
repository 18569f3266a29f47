"""Files of tensors from outside: what is no regular file, too large, damaged or of another format is one error."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdbench.errors import CheckpointError
from kdbench.records import tensor_files
from kdbench.records.tensor_files import read_content


def refused(path: Path, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_content(path)
    message = str(caught.value)
    assert str(path)[:100] in message and words in message, message
    assert message.isprintable() and len(message) < 700


def test_pipes_devices_folders_and_impossible_names_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "is a pipe, not a file")
    refused(Path("/dev/zero"), "is a device, not a file")
    refused(tmp_path, "is a folder, not a file")
    refused(tmp_path / ("x" * 300), "cannot be used: File name too long")
    refused(tmp_path / "none.pth", "does not exist")


def test_a_file_above_the_budget_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.truncate(tensor_files.LARGEST_FILE + 1)
    refused(path, "has more than the 16 GiB that are read")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is truncated: it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>Google Drive - virus scan warning</html>", "a web page"),
        (b"# Networks\n\nwget https://example.org/resnet56.pth\n", "is a text file, not a checkpoint"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file (Keras)"),
        (b"\x1f\x8b\x08" + bytes(100), "compressed with gzip"),
        (bytes(5000), "is damaged, truncated or no checkpoint"),
        (b"PK\x03\x04" + bytes(100), "is damaged, truncated or no checkpoint"),
        (struct.pack("<Q", 40) + b'{"a":{"dtype":"F32"' + bytes(40), "is a damaged or truncated safetensors file"),
        (struct.pack("<Q", 10**12) + b'{"a":1}', "is damaged, truncated or no checkpoint"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 10**15) + b"x.", "it is damaged, or too large for this machine"),
        (b"\x80\x02r" + struct.pack("<I", 2**32 - 1) + b"}.", "it has more objects than any checkpoint"),
        (b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1), "is damaged, truncated or no checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_named_for_what_it_is(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    path.write_bytes(content)
    refused(path, words)


def damaged(content: bytes, rng: random.Random) -> Iterator[bytes]:
    """Beginnings of a file, and copies with a changed bit in its first part."""
    yield from (content[: 1 + i * len(content) // 20] for i in range(20))
    for _ in range(60):
        changed = bytearray(content)
        changed[rng.randrange(min(len(changed), 300))] ^= 1 << rng.randrange(8)
        yield bytes(changed)


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy", "pickle"])
def test_a_damaged_file_is_one_message_in_our_words(form: str, tmp_path: Path) -> None:
    state = {"weight": torch.arange(60.0), "bias": torch.ones(3)}
    path = tmp_path / ("some.safetensors" if form == "safetensors" else "some.pkl" if form == "pickle" else "some.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps({name: value.numpy() for name, value in state.items()}))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    ours = re.compile(
        rf"{re.escape(str(path))} (is damaged, truncated or no checkpoint|is a damaged or truncated safetensors file"
        r"|is damaged \(checksum of [\w./]+\)|is damaged or no checkpoint: it has more objects than any checkpoint"
        r"|is truncated: it is empty|is damaged: its entries are larger than the file); copy or download it again"
        r"|.* asks for more memory than is free.*|.* holds objects beside tensors and plain values .*"
        r"|.* cannot be used: File too large.*|.* an archive of other files .*|.* compressed after it was saved.*"
        r"|.* was written by pickle\.dump.*"
    )
    messages = []
    for content in damaged(path.read_bytes(), random.Random(0)):
        path.write_bytes(content)
        try:
            read_content(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 20 and [message for message in messages if not ours.fullmatch(message)] == []


@pytest.mark.parametrize("content", [b"\x08\0\0", bytes(5000), b"\xff" * 99, b"<\0\0\0\0\0\0\0{" + b" " * 9])
def test_a_safetensors_file_without_its_header_is_named_as_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    refused(path, "is a damaged or truncated safetensors file; copy or download it again")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    refused(path, "a Git LFS pointer")


def saved(path: Path) -> bytes:
    torch.save({"weight": torch.arange(600.0)}, path)
    return path.read_bytes()


def test_a_changed_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    whole = bytearray(saved(path))
    whole[whole.index(torch.arange(600.0).numpy().tobytes()) + 1000] ^= 1
    path.write_bytes(bytes(whole))
    refused(path, "is damaged")
    assert torch.load(path)["weight"].numel() == 600  # which torch alone does not find


def test_compressed_archives_and_other_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    saved(path)
    rewrite(path, tmp_path / "small.pth", zipfile.ZIP_DEFLATED)
    refused(tmp_path / "small.pth", "was compressed after it was saved")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.jpg", b"x")
    refused(tmp_path / "photos.zip", "an archive of other files (a.jpg)")
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    refused(tmp_path / "arrays.npz", "an .npz of NumPy arrays")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", b"")
        archive.writestr("script/constants.pkl", b"")
    refused(tmp_path / "script.pt", "a TorchScript program")
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(path)
    refused(tmp_path / "some.tar", "is damaged, truncated or no checkpoint")


def rewrite(path: Path, target: Path, compression: int = zipfile.ZIP_STORED, **changes: bytes) -> None:
    """A copy of an archive; `changes` replace bytes of its index, `old=...` by `new=...`."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", compression) as copy:
        for entry in source.infolist():
            content = source.read(entry)
            if changes and entry.filename.endswith("data.pkl"):
                assert changes["old"] in content
                content = content.replace(changes["old"], changes["new"])
            copy.writestr(entry.filename, content)


def test_a_tensor_that_claims_more_than_its_file_holds_is_refused(tmp_path: Path) -> None:
    path = saved_count(tmp_path / "some.pth")
    lie = b"J" + struct.pack("<i", 2_000_000_000)
    rewrite(path, tmp_path / "lie.pth", old=b"M\x58\x02", new=lie)  # 600 as pickles write it
    refused(tmp_path / "lie.pth", "is damaged, truncated or no checkpoint")


def saved_count(path: Path) -> Path:
    saved(path)
    return path


def test_an_index_of_endless_objects_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.pkl"
    path.write_bytes(b"\x80\x02" + b"}0" * 5000 + b"}.")
    assert read_content(path) == {}
    monkeypatch.setattr(tensor_files, "MOST_OPCODES", 1000)
    refused(path, "more objects than any checkpoint")
    monkeypatch.setattr(tensor_files, "LARGEST_INDEX", 10)
    refused(saved_count(tmp_path / "some.pth"), "lists too many objects")


def test_shared_and_nested_dicts_take_no_time(tmp_path: Path) -> None:
    value: Any = {"x": 1}
    for _ in range(60):
        value = {"a": value, "b": value}  # 2^60 paths
    torch.save(value, tmp_path / "some.pth")
    assert list(read_content(tmp_path / "some.pth")) == ["a", "b"]


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_numpy_scalars_are_numbers_and_objects_are_named(form: str, tmp_path: Path) -> None:
    path, new = tmp_path / "some.pth", form == "zip"
    values = {"acc": np.float64(72.5), "top5": np.float32(9), "n": np.int64(3), "a": np.arange(3), "t": np.str_("x")}
    torch.save(values, path, _use_new_zipfile_serialization=new)
    content = read_content(path)
    assert (content["acc"], content["top5"], content["n"], content["t"]) == (72.5, 9.0, 3, "x")
    assert content["a"].tolist() == [0, 1, 2]
    torch.save({"net": {}, "path": Path("x")}, path, _use_new_zipfile_serialization=new)
    refused(path, "pathlib.PosixPath")
    refused(path, "torch.save(c['net'], 'weights.pth')")


def test_a_pickle_of_tensors_says_how_to_write_it(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    path.write_bytes(pickle.dumps({"weight": torch.ones(2)}))
    refused(path, "was written by pickle.dump; write its state dict with torch.save")


def test_an_unreadable_file_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved_count(tmp_path / "some.pth")

    def denied(*_: Any) -> io.BytesIO:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(tensor_files, "open_regular", denied)
    refused(path, "cannot be read: permission denied")
