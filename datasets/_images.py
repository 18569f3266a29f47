"""Image files: decoding to RGB, and a fast check that files are complete."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from . import _files
from ._errors import DataError

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
"""Pillow's formats of photographs; its others run programs (EPS), open further files or are rarely tested."""

_THREADS, _CHUNK = 8, 50  # a thread takes a chunk of files
_PNG_EXIF = frozenset({"exif", "Raw profile type exif"})
_TAIL = 64  # bytes at the end of a file, which contain the end marker of a complete JPEG or PNG
_EIGHT_BIT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"})
_BITS, _PHOTOMETRIC, _BLACK_IS_ZERO = 258, 262, 1  # TIFF's BitsPerSample, PhotometricInterpretation and a value of it


@dataclass(frozen=True)
class Header:
    """What an image file says of itself.

    Attributes:
        width: in pixels, as stored.
        height: likewise.
        orientation: the orientation tag, 1 to 8.
        deep: it has 16 bits a channel.
    """

    width: int
    height: int
    orientation: int
    deep: bool = False


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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings, which are about half the size that it refuses and about odd metadata.

    Does nothing in other threads than the main one, because the filters of warnings are common to all of them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def map_files(function: Callable[[Path], T], files: Sequence[Path]) -> Generator[T, None, None]:
    """The function's values for files, in order, computed in threads: they wait for the disk and for decoders.

    Close it where it is not read to its end.
    """
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    with quiet(), ThreadPoolExecutor(_THREADS) as pool:
        try:
            for values in pool.map(lambda chunk: [function(file) for file in chunk], chunks):
                yield from values
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def opened(file: Path, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """The image in `file`, not decoded yet.

    Raises:
        DataError: the file cannot be read, or the image cannot be decoded within the block.
    """
    try:
        with _files.open_regular(file) as stream, quiet(), Image.open(stream, formats=formats) as image:
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise DataError(
            f"{file}: has more than the {limit} megapixels that are decoded; cut it into tiles, or scale it down, "
            "with its boxes or mask"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{file}: cannot be decoded (no readable image of {', '.join(formats)}); copy or download the image again"
        ) from error
    except Exception as error:  # decoders of damaged files raise almost anything
        reason = (isinstance(error, OSError) and error.strerror) or "it is damaged or truncated"
        raise DataError(f"{file}: cannot be decoded ({reason}); copy or download the image again") from error


def header(file: Path) -> Header:
    """Size and orientation of an image, without decoding it.

    Raises:
        DataError: the file cannot be read as an image, or its numbers have no known range.
    """
    with opened(file) as image:
        _check_mode(file, image)
        return Header(*image.size, orientation(image), _is_deep(image))


def _is_deep(image: Image.Image) -> bool:
    """Whether a file, which is not decoded yet, has 16 bits a channel; of colors, Pillow keeps the higher 8."""
    if image.mode not in _EIGHT_BIT:
        return True
    tiles = image.tile  # type: ignore[attr-defined]
    arguments = [part for tile in tiles for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    if image.format == "PPM":
        return any(isinstance(part, int) and part > 255 for part in arguments)  # the largest value
    return any(isinstance(part, str) and ";16" in part for part in arguments)


def orientation(image: Image.Image) -> int:
    """The orientation tag, 1 to 8; 1 for none, for an unreadable one, and in TIFF, to which Pillow applies it.

    In PNG only a tag before the pixels counts: to look behind them, Pillow decodes the image.
    """
    if image.format == "TIFF" or (image.format == "PNG" and not image.info.keys() & _PNG_EXIF):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - of damaged metadata, which is not needed to decode the pixels
        return 1
    return value if value in range(1, 9) else 1


def decode(file: Path) -> Image.Image:
    """The image in `file` in RGB, as stored: the orientation tag is not applied.

    Raises:
        DataError: the file cannot be decoded, or its numbers have no known range.
    """
    with opened(file) as image:
        return rgb(file, image)


def rgb(file: Path, image: Image.Image) -> Image.Image:
    """`image` in RGB, 8 bits a channel; 16-bit gray levels are divided by 256.

    Raises:
        DataError: the numbers of its pixels have no known range, such as 32-bit integers and floats.
    """
    _check_mode(file, image)
    if image.mode == "RGB":
        image.load()  # what a conversion does first, which would copy the pixels besides
        return image
    if image.mode not in _EIGHT_BIT:  # of 16 bits; a direct conversion would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _check_mode(file: Path, image: Image.Image) -> None:
    """Reject pixels of unknown range, which would be decoded to black."""
    if image.mode in _EIGHT_BIT or _fills_16_bits(image):
        return
    kind = {"F": "floating-point numbers", "I": "whole numbers of more than 8 bits"}.get(image.mode, image.mode)
    raise DataError(
        f"{file}: its pixels are {kind} of unknown range; save it with 8 bits a channel, scaled from the range of "
        "its values"
    )


def _fills_16_bits(image: Image.Image) -> bool:
    """Whether 0 to 65,535 are black to white: not in TIFF files of 12 bits, or of white as 0."""
    if image.mode == "I":
        return image.format == "PPM"  # Pillow scales its gray levels to 16 bits
    if not image.mode.startswith("I;16"):
        return False
    if image.format != "TIFF":
        return True
    tags = image.tag_v2  # type: ignore[attr-defined]
    return tuple(tags.get(_BITS, (16,))) == (16,) and tags.get(_PHOTOMETRIC, _BLACK_IS_ZERO) == _BLACK_IS_ZERO


def is_complete(file: Path) -> bool:
    """Whether the file is not empty and, for JPEG, PNG, WebP and BMP, not truncated; only both ends are read.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with _files.open_regular(file) as stream:
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
