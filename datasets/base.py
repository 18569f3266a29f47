"""What every data set shares: the error that bad data is answered with, and the shapes of what is opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ._errors import DataError

if TYPE_CHECKING:  # importing the package stays cheap
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["VOID", "ArraySplit", "DataError", "FileSplit", "ImageSet", "MaskSet", "MaskSplit"]

VOID = 255
"""Class index of pixels that count for nothing."""

KEPT_BYTES = 2**28
"""A split whose decoded images take no more than this is decoded once and kept."""


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


@dataclass(frozen=True, eq=False)
class MaskSplit:
    """Images and their masks for segmentation, decoded when they are asked for.

    Attributes:
        images: N image files.
        masks: N mask files of one 8-bit channel, each of its image's size.
        sizes: width and height, pixels, int64 [N, 2].
        indices: class index of every label that masks may hold, or VOID, uint8 [256].
        known: which labels these are, bool [256].
        mend: what to do about another label.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    sizes: NDArray[np.int64]
    indices: NDArray[np.uint8]
    known: NDArray[np.bool_]
    mend: str
    _kept: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels."""
        width, height = self.sizes[i].tolist()
        return width, height

    def load(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image `i`, RGB [H, W, 3], and its class indices, [H, W] with VOID; not to be changed.

        Raises:
            DataError: a file cannot be decoded, or the mask holds a label that it may not.
        """
        if i in self._kept:
            return self._kept[i]
        pair = self._decode(i)
        if self._small:
            self._kept[i] = pair
        return pair

    def verify(self, full: bool = False) -> None:
        """Look at every file.

        Args:
            full: decode every image and mask; else read both ends of each file and decode only those that do not end
                as they should, and where the split is small enough to be kept, every mask.

        Raises:
            DataError: names the first broken file.
        """
        from . import _images, _masks

        for i in range(len(self)):
            if full or not (_images.looks_whole(self.images[i]) and _images.looks_whole(self.masks[i])):
                self._decode(i)
            elif self._small:
                _masks.decode_mask(self, i)

    @cached_property
    def _small(self) -> bool:
        return 4 * int(self.sizes.prod(axis=1).sum()) <= KEPT_BYTES

    def _decode(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        from . import _masks

        return _masks.decode(self, i)


@dataclass(frozen=True, eq=False)
class MaskSet:
    """A segmentation data set.

    Attributes:
        name: what results call it.
        path: the folder.
        classes: K names, in the order of their indices.
        colours: RGB of each class, for pictures.
        train: images to learn from.
        val: images to evaluate on.
        mean: per channel, RGB in 0..1, as the recipes normalise.
        std: likewise.
        fingerprint: 16 hex digits: classes, what labels mean, names and sizes of all files.
        notices: how the set was prepared, one line each.
    """

    name: str
    path: Path
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    train: MaskSplit
    val: MaskSplit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str
    notices: tuple[str, ...] = ()
