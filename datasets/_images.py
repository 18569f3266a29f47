"""Image files: decoded to RGB, or looked at just closely enough to see that they are whole."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ._errors import DataError

_TAIL = 64  # bytes; a sound JPEG or PNG shows its end marker in here
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def files_in(folder: Path) -> Iterator[str]:
    """Every file under `folder`, as names relative to it with forward slashes; one scan, no look at single files."""
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
    """The image in `file` in RGB, as stored: an orientation tag is not applied, since COCO's boxes do not know it.

    Raises:
        DataError: the file cannot be decoded, or is not `width` x `height` pixels where these are given.
    """
    try:
        with Image.open(file) as image:
            if (width is None or image.width == width) and (height is None or image.height == height):
                return _rgb(image)
            found = f"{image.size[0]}x{image.size[1]}"
    except UNDECODABLE as error:
        raise DataError(f"{file}: cannot be decoded ({error}); copy or download the image again") from error
    raise DataError(
        f"{file}: is {found} pixels but its annotation file says {width}x{height}; "
        "restore the original image or correct its width and height"
    )


def looks_whole(file: Path) -> bool:
    """Whether the file is not empty and, for JPEG, PNG, WebP and BMP, ends as it should; only its ends are read.

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
    if image.mode.startswith("I"):  # 16-bit greyscale; converting as it is would cut at 255
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
