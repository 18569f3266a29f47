"""Images of 16 bits whose values fill a part of their range are reported: as 8 bits they are dark or black."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kdbench import datasets
from kdbench.datasets import _bit_depth, _images

if TYPE_CHECKING:
    from conftest import Maker

RAMP = np.linspace(0, 1, 40 * 30).reshape(30, 40)
KINDS = ["gray.png", "gray.tif", "gray.pgm", "color.png", "color.ppm", "alpha.png"]


def levels(largest: int) -> NDArray[np.uint16]:
    """Gray levels from 0 to `largest`, [30, 40]."""
    return (largest * RAMP).round().astype(np.uint16)


def content(kind: str, largest: int) -> bytes:
    """An image file of 16 bits a channel, which Pillow writes for gray levels alone."""
    pixels = levels(largest)
    name, ending = kind.split(".")
    big = np.stack([pixels] * {"gray": 1, "color": 3, "alpha": 4}[name], -1).astype(">u2")
    if ending in ("pgm", "ppm"):
        return f"{'P5' if ending == 'pgm' else 'P6'}\n40 30\n65535\n".encode() + big.tobytes()
    if name == "gray":
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, {"png": "PNG", "tif": "TIFF"}[ending])
        return stream.getvalue()
    header = struct.pack(">IIBBBBB", 40, 30, 16, {"color": 2, "alpha": 6}[name], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in chunks
    )


@pytest.mark.parametrize("kind", KINDS)
def test_headers_tell_16_bits(kind: str, tmp_path: Path) -> None:
    file = tmp_path / kind
    file.write_bytes(content(kind, 4095))
    assert _images.header(file).deep
    Image.new("RGB", (4, 4)).save(file, "PNG")
    assert not _images.header(file).deep


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("largest", "said"), [(31, 255), (800, 1023), (3900, 4095), (16200, 16383), (65535, 0)])
def test_low_values_of_boxes_images_are_reported(maker: Maker, kind: str, largest: int, said: int) -> None:
    maker.train["images"][0]["file_name"] = kind
    maker.image("train", kind).write_bytes(content(kind, largest))
    notices = [line for line in maker.open().notices if "16 bits" in line]
    assert len(notices) == bool(said)
    if said:
        assert (
            f"1 image has 16 bits a channel, 0 to 65535, and all 1 that were looked at have no value above {said}"
            in (notices[0])
        )
        assert kind in notices[0] and "save them with 8 bits a channel, scaled from the range" in notices[0]


def test_low_values_are_reported_of_image_folders_and_masks(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            for folder in (f"folder/{split}/{name}", f"masks/images/{split}", f"masks/masks/{split}"):
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for folder in (f"folder/{split}/{name}", f"masks/images/{split}"):
                (tmp_path / folder / f"{name}.png").write_bytes(content("gray.png", 4095))
            mask = Image.fromarray((levels(65535) >> 15).astype(np.uint8))
            mask.save(tmp_path / "masks" / "masks" / split / f"{name}.png")
    (tmp_path / "masks" / "classes.txt").write_text("one\ntwo\n")
    for opened in (
        datasets.open_images("", tmp_path, tmp_path / "folder"),
        datasets.open_masks("", tmp_path, tmp_path / "masks"),
    ):
        train, val = (line for line in opened.notices if "16 bits" in line)
        assert "train: 2 images have 16 bits" in train and "val: 2 images have 16 bits" in val
        assert "all 2 that were looked at have no value above 4095" in train


def test_dark_images_are_counted_where_others_fill_the_range(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file, largest in zip(files, (65535, 30000, 4000, 60000), strict=True):
        file.write_bytes(content("gray.png", largest))
    (notice,) = _bit_depth.notices("train", files)
    assert (
        "4 images have 16 bits" in notice
        and "1 of 4 that were looked at have no value above 4095 (first: 2.png)" in notice
    )


def test_a_large_split_is_not_decoded_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content("gray.png", 4095))
    decoded: list[Path] = []
    decode = _images.decode
    monkeypatch.setattr(_images, "decode", lambda path: decoded.append(path) or decode(path))
    (notice,) = _bit_depth.notices("train", [file] * 1000)
    assert len(decoded) == _bit_depth.SAMPLE and "all 16 that were looked at" in notice
