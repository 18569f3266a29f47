"""Decoded images and masks in the folder that KDBENCH_DECODED names: the same arrays, without decoding again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.datasets import DataError, _decoded, base, open_masks
from kdbench.datasets.base import MaskSplit


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MaskSplit:
    """Two images too large to be kept in memory."""
    monkeypatch.setattr(base, "CACHE_BYTES", 0)
    path, draw = tmp_path / "mine", np.random.default_rng(0)
    for name in ("train", "val"):
        for kind in ("images", "masks"):
            (path / kind / name).mkdir(parents=True)
        for i in range(2):
            pixels = draw.integers(0, 256, (12, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / "images" / name / f"{i}.png")
            Image.fromarray(draw.integers(0, 2, (12, 20), dtype=np.uint8)).save(path / "masks" / name / f"{i}.png")
    (path / "classes.txt").write_text("one\ntwo\n")
    return open_masks("camvid", tmp_path, path).train


def test_arrays_are_decoded_once_and_are_the_same(
    split: MaskSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [split.load(i) for i in range(2)]
    monkeypatch.setenv(_decoded.VARIABLE, str(tmp_path / "decoded"))
    decoded: list[int] = []
    decode = MaskSplit._decode
    monkeypatch.setattr(MaskSplit, "_decode", lambda self, i: (decoded.append(i), decode(self, i))[1])
    for _ in range(2):
        for i in range(2):
            for found, wanted in zip(split.load(i), plain[i], strict=True):
                assert found.dtype == np.uint8 and np.array_equal(found, wanted)
    assert decoded == [0, 1] and len(list((tmp_path / "decoded").iterdir())) == 2


def test_a_file_that_has_changed_is_decoded_again(
    split: MaskSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_decoded.VARIABLE, str(tmp_path / "decoded"))
    before = split.load(0)[1].copy()
    Image.fromarray(1 - before).save(split.masks[0])
    os.utime(split.masks[0], ns=(10**18, 10**18))
    assert np.array_equal(split.load(0)[1], 1 - before)


def test_an_array_that_is_not_whole_is_written_again(
    split: MaskSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_decoded.VARIABLE, str(tmp_path / "decoded"))
    wanted = split.load(0)
    (file,) = (tmp_path / "decoded").iterdir()
    whole = file.read_bytes()
    for damage in (b"", whole[:-5], b"text"):
        file.write_bytes(damage)
        assert all(np.array_equal(*pair) for pair in zip(split.load(0), wanted, strict=True))
        assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_an_error_that_names_the_variable(
    split: MaskSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(_decoded.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(DataError, match="decoded images cannot be written .* with KDBENCH_DECODED"):
        split.load(0)
