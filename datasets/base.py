"""What every data set shares: the error that bad data is answered with, and the shape of a classification set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._errors import DataError

if TYPE_CHECKING:  # importing the package stays cheap
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["ArraySplit", "DataError", "FileSplit", "ImageSet"]


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Small images in memory.

    Attributes:
        images: uint8 [N, H, W, 3], RGB.
        labels: int64 [N], 0 to K - 1.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Image files and their labels, decoded when they are asked for.

    Attributes:
        files: N image files.
        labels: int64 [N], 0 to K - 1.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.files)

    def load(self, i: int) -> Image.Image:
        """Image `i` in RGB.

        Raises:
            DataError: it cannot be decoded; names the file.
        """
        from . import _images

        return _images.decode(self.files[i])


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A classification data set.

    Attributes:
        name: what results call it.
        path: the file or folder that it was read from.
        classes: K names, in label order.
        train: images to learn from.
        val: images to evaluate on.
        mean: of the training images per channel, RGB in 0..1, as the papers' recipes normalise.
        std: likewise.
        fingerprint: 16 hex digits of the whole data set's content; the same for every variant of it.
        epoch_images: training images that an epoch counts: of the whole set, also where `fraction` keeps fewer.
        resolution: side in pixels to which the student's input is reduced (and brought back); None for as it is.
        notices: how the set was prepared and what was left out, one line each.
    """

    name: str
    path: Path
    classes: tuple[str, ...]
    train: ArraySplit | FileSplit
    val: ArraySplit | FileSplit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str
    epoch_images: int
    resolution: int | None = None
    notices: tuple[str, ...] = ()
