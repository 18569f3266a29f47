"""Image files: decoding to RGB, and a fast check that files are complete."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ._errors import DataError

_TAIL = 64  # bytes at the end of a file, which contain the end marker of a complete JPEG or PNG
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def files_in(folder: Path) -> Iterator[str]:
    """Every file under `folder`, as relative names with forward slashes; one scan without accessing single files."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.is_dir():
                    pending.append(f"{prefix}{entry.name}/")
                elif entry.is_file():
                    yield f"{prefix}{entry.name}"


def decode(file: Path, width: int | None = None, height: int | None = None) -> Image.Image:
    """The image in `file` in RGB, as stored: the orientation tag is not applied, as in COCO's boxes.

    Raises:
        DataError: the file cannot be decoded, or has another `width` or `height` than expected.
    """
    try:
        with Image.open(file) as image:
            if (width is None or image.width == width) and (height is None or image.height == height):
                return _rgb(image)
            size = f"{image.size[0]}x{image.size[1]}"
    except UNDECODABLE as error:
        raise DataError(f"{file}: cannot be decoded ({error}); copy or download the image again") from error
    raise DataError(
        f"{file}: is {size} pixels but its annotation file says {width}x{height}; "
        "restore the original image or correct its width and height"
    )


def is_complete(file: Path) -> bool:
    """Whether the file is not empty and, for JPEG, PNG, WebP and BMP, not truncated; only both ends are read.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(8)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL))
            tail = stream.read()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); copy or download the image again") from error
    if head.startswith(b"\xff\xd8"):
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if head.startswith(b"\x89PNG"):
        return b"IEND\xae\x42\x60\x82" in tail
    if head.startswith(b"RIFF"):
        return size >= 8 + int.from_bytes(head[4:8], "little")
    if head.startswith(b"BM"):
        return size >= int.from_bytes(head[2:6], "little")
    return bool(head)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grayscale; a direct conversion would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
