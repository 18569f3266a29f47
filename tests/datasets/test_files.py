"""Only regular files are read, within limits, and whatever is wrong with one is a reason to print."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdbench.datasets import _files


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file, reason in ((tmp_path / "pipe", "is a pipe"), (Path("/dev/zero"), "is a device"), (tmp_path, "a folder")):
        with pytest.raises(OSError, match=reason) as caught:
            _files.open_regular(file)
        assert caught.value.strerror


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert _files.read_bytes(tmp_path / "link") == b"abc"


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(OSError, match="more than the 4 GiB"):
        _files.read_bytes(tmp_path / "sparse")
    (tmp_path / "small").write_bytes(b"abc")
    assert _files.read_bytes(tmp_path / "small", 3) == b"abc"
    with pytest.raises(OSError, match="more than"):
        _files.read_bytes(tmp_path / "small", 2)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000, "missing"])
def test_an_impossible_name_is_an_error_of_the_system(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError) as caught:
        _files.read_bytes(tmp_path / name)
    assert caught.value.strerror


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": [1, 2', "not valid JSON at byte 11 of 11"),
        (b'{"a": "\xff"}', "not text at byte 7"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "thousands of digits"),
    ],
)
def test_json_that_cannot_be_read_says_where_or_why(text: bytes, reason: str) -> None:
    with pytest.raises(_files.JsonError, match=reason):
        _files.parse_json(text)


def test_json_with_a_byte_order_mark_is_read() -> None:
    assert _files.parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
