"""Cameras' orientation tags, read as the annotations of an image mean them.

A camera may store an upright photograph lying down, with a tag that tells viewers to turn it. Some labeling tools show
and measure the image as it is stored, others as it is turned; the annotated width and height tell them apart where the
tag exchanges the two. Where it does not (square images, half turns, mirrored ones), the other images of the split
decide; without any, images are read as stored, and a notice says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from . import _images
from ._errors import DataError
from ._images import Header
from ._text import counted

_EXCHANGES = range(5, 9)  # values of the tag that exchange width and height


@dataclass(frozen=True)
class Source:
    """Where the expected size of an image is from: `says` completes a message, `fix` is what to do about another."""

    says: str
    fix: str


MASKS = Source("mask has", "give each image a mask of its size")


@dataclass(frozen=True)
class Survey:
    """What the images of a split say of their orientation tags.

    Attributes:
        turned: images whose annotations are of the turned image.
        stored: images whose annotations are of the image as stored.
        unclear: positions of images whose size does not tell.
        deep: positions of images of 16 bits a channel.
    """

    turned: int
    stored: int
    unclear: tuple[int, ...]
    deep: tuple[int, ...] = ()

    @property
    def applies(self) -> bool:
        """Whether the tag of unclear images is applied."""
        return self.turned > 0 and self.stored == 0


def survey(files: Sequence[Path], sizes: NDArray[np.int64], source: Source) -> Survey:
    """Compare every file's header with its annotated size.

    Args:
        files: N images.
        sizes: annotated width and height in pixels, [N, 2].
        source: where the sizes are from.

    Raises:
        DataError: the first image that cannot be read or has another size.
    """
    headers = list(_images.map_files(_images.header, files))
    turned, stored, unclear = 0, 0, []
    for i, (file, header) in enumerate(zip(files, headers, strict=True)):
        size = (int(sizes[i, 0]), int(sizes[i, 1]))
        turns = _turns(file, header, size, source)
        if header.orientation == 1:
            continue
        turned += turns is True
        stored += turns is False
        if turns is None:
            unclear.append(i)
    return Survey(turned, stored, tuple(unclear), tuple(i for i, header in enumerate(headers) if header.deep))


def notices(source: str, survey: Survey, files: Sequence[Path], what: str) -> Iterator[str]:
    """What is done about the orientation tags of a split, one line each.

    Args:
        source: the split or its file.
        survey: of the split.
        files: its images.
        what: of the images might be turned as well: "boxes" or "masks".
    """
    if survey.turned:
        images = counted(survey.turned, "image is turned by its", "images are turned by their")
        yield f"{source}: {images} orientation tag, as the size of the {what} is"
    if survey.unclear and survey.applies:
        count, told = len(survey.unclear), "whose size does not tell"
        images = counted(count, f"image {told} is turned by its", f"images {told} are turned by their")
        yield f"{source}: {images} tag as well"
    elif survey.unclear:
        yield (
            f"{source}: {counted(len(survey.unclear), 'image has', 'images have')} an orientation tag, which is not "
            f"applied (first: {files[survey.unclear[0]].name}); if the {what} were drawn on the turned "
            "images, save these turned and without the tag (PIL.ImageOps.exif_transpose)"
        )


def decode(file: Path, size: tuple[int, int], source: Source, applies: Callable[[], bool]) -> Image.Image:
    """The image in RGB, as its annotations mean it.

    Args:
        file: the image.
        size: its annotated width and height.
        source: where the size is from.
        applies: whether the tag is applied where the size does not tell.

    Raises:
        DataError: the file cannot be decoded or has another size.
    """
    with _images.opened(file) as image:
        header = Header(*image.size, _images.orientation(image))
        turns = _turns(file, header, size, source)
        if turns is None:
            turns = applies()
        return _images.rgb(file, ImageOps.exif_transpose(image) if turns and header.orientation > 1 else image)


def _turns(file: Path, header: Header, size: tuple[int, int], source: Source) -> bool | None:
    """Whether annotations of this size are of the turned image; None if both have it.

    Raises:
        DataError: neither has this size.
    """
    stored = (header.width, header.height)
    turned = stored[::-1] if header.orientation in _EXCHANGES else stored
    if size == stored == turned:
        return None if header.orientation > 1 else False
    if size == stored:
        return False
    if size == turned:
        return True
    tag = f" (stored as {stored[0]}x{stored[1]}, with an orientation tag)" if turned != stored else ""
    raise DataError(
        f"{file}: is {turned[0]}x{turned[1]} pixels{tag} but its {source.says} {size[0]}x{size[1]}; {source.fix}"
    )
