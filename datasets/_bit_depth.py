"""Images of 16 bits a channel whose values fill a part of that range: as 8 bits they are dark or black."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from . import _images
from ._text import counted

SAMPLE = 16
"""Most images of a split that are decoded to look at their values; planning is to stay fast."""

HALF, BLACK = 128, 16
"""8-bit levels: the highest bit of no value is set, and those of 12-bit values that were saved unscaled."""


def notices(source: str, files: Sequence[Path]) -> Iterator[str]:
    """Whether images of a split use the low bits alone, one line; evenly spaced ones are decoded.

    Args:
        source: the split or its file.
        files: its images of more than 8 bits a channel.

    Raises:
        DataError: an image cannot be decoded.
    """
    taken = spread(files, SAMPLE)
    brightest = list(_images.map_files(_brightest, taken))
    limit = HALF if max(brightest, default=HALF) < HALF else BLACK
    dark = [(level, file) for level, file in zip(brightest, taken, strict=True) if level < limit]
    if not dark:
        return
    found = f"all {len(taken)}" if len(dark) == len(taken) else f"{len(dark)} of {len(taken)}"
    largest = 256 * max(level for level, _ in dark) + 255
    yield (
        f"{source}: {counted(len(files), 'image has', 'images have')} 16 bits a channel, 0 to 65535, and {found} that "
        f"were looked at have no value above {largest} (first: {dark[0][1].name}), so that they are dark or black; if "
        "the sensor has fewer bits, save them with 8 bits a channel, scaled from the range of its values"
    )


def in_folder(source: str, files: Sequence[Path]) -> Iterator[str]:
    """`notices` of a split whose headers were not read: evenly spaced PNG files are opened to find such images."""
    taken = spread([file for file in files if file.suffix.lower() == ".png"], 4 * SAMPLE)
    headers = _images.map_files(_images.header, taken)
    yield from notices(source, [file for file, header in zip(taken, headers, strict=True) if header.deep])


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the files, evenly spaced."""
    places = np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int))
    return [files[i] for i in places.tolist()]


def _brightest(file: Path) -> int:
    """The largest 8-bit level of any channel."""
    return int(np.asarray(_images.decode(file)).max())
