"""Types of opened data sets: image sets for classification, mask sets for segmentation, and their splits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from ._errors import DataError
from ._ignore_index import IGNORE_INDEX

if TYPE_CHECKING:  # importing the package stays cheap
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from ._mask_files import Census

__all__ = ["IGNORE_INDEX", "ArraySplit", "DataError", "FileSplit", "ImageSet", "MaskSet", "MaskSplit"]

CACHE_BYTES = 2**28
"""A split whose decoded images take at most this many bytes is decoded once and kept in memory."""


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Images and labels in memory.

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
    """Image files and labels; images are decoded by `load`.

    Attributes:
        files: N image files.
        labels: int64 [N], 0 to K - 1.
        sizes: bytes that each file had when it was listed, int64 [N]; None where that is not known.
    """

    files: Sequence[Path]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def load(self, i: int) -> Image.Image:
        """Image `i` in RGB.

        Raises:
            DataError: the file cannot be decoded, or has changed since it was listed.
        """
        from . import _images

        self.check(i)
        return _images.decode(self.files[i])

    def check(self, i: int) -> None:
        """Compare the size of file `i` with what it was when it was listed.

        Raises:
            DataError: it has changed, or is not there.
        """
        from . import _index

        if self.sizes is not None:
            _index.check_size(self.files[i], int(self.sizes[i]))

    def verify(self) -> None:
        """Decode every image.

        Raises:
            DataError: the first file that cannot be decoded.
        """
        from . import _images

        for _ in _images.map_files(lambda file: _images.decode(file).size, self.files):
            pass


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A classification data set.

    Attributes:
        name: name in result rows.
        path: file or folder of the data.
        classes: K names, in label order.
        train: training images.
        val: validation images.
        mean: mean per channel for normalization, RGB in 0..1.
        std: standard deviation per channel for normalization.
        fingerprint: 16 hex digits of the content; equal for all variants of a set.
        epoch_images: training images per epoch: those of the whole set, also with `fraction`.
        resolution: side in pixels to which the student's input is reduced (and enlarged again); None for no reduction.
        notices: what was prepared or left out, one line each.
        empty_classes: classes without a training image: none, which opening checks.
    """

    empty_classes: ClassVar[tuple[str, ...]] = ()

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
    """Images and masks for segmentation; both are decoded by `load`.

    Attributes:
        images: N image files.
        masks: N mask files of one 8-bit channel, in the size of the images.
        sizes: width and height, pixels, int64 [N, 2].
        indices: class index or IGNORE_INDEX of every label, uint8 [256].
        known: which labels masks may contain, bool [256].
        fix: how to fix another label, for the message.
        turns: whether an orientation tag is applied to images whose size does not tell.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    sizes: NDArray[np.int64]
    indices: NDArray[np.uint8]
    known: NDArray[np.bool_]
    fix: str
    turns: bool = False
    _cache: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels."""
        width, height = self.sizes[i].tolist()
        return width, height

    def load(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image `i`, RGB [H, W, 3], and its class indices, [H, W] with IGNORE_INDEX; do not modify them.

        Raises:
            DataError: a file cannot be decoded, or the mask contains an unknown label.
        """
        if i in self._cache:
            return self._cache[i]
        if self._small:
            self._cache[i] = self._decode(i)
            return self._cache[i]
        from . import _decoded

        how = self.indices.tobytes() + self.known.tobytes() + bytes([self.turns])
        return _decoded.kept((self.images[i], self.masks[i]), how, lambda: self._decode(i))

    def verify(self, full: bool = False) -> None:
        """Check every file.

        Args:
            full: decode all images and masks; else read only the ends of each file, decode files that seem truncated,
                and decode all masks of a split that is small enough to be kept in memory.

        Raises:
            DataError: the first broken file.
        """
        from . import _images

        for i in range(len(self)):
            if full or not (_images.is_complete(self.images[i]) and _images.is_complete(self.masks[i])):
                self._decode(i)
            elif self._small:
                self._decode_mask(i)

    @cached_property
    def census(self) -> Census:
        """The classes that the masks contain; computed on first use, since masks are decoded until all are found.

        Raises:
            DataError: a mask cannot be decoded or contains an unknown label.
        """
        from . import _mask_files

        return _mask_files.census(self.masks, self.indices, self.known, self.fix)

    @cached_property
    def _small(self) -> bool:
        return 4 * int(self.sizes.prod(axis=1).sum()) <= CACHE_BYTES

    def _decode(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        import numpy as np

        from . import _orientation

        image = _orientation.decode(self.images[i], self.size(i), _orientation.MASKS, lambda: self.turns)
        return np.asarray(image), self._decode_mask(i)

    def _decode_mask(self, i: int) -> NDArray[np.uint8]:
        from . import _mask_files

        return _mask_files.decode(self.masks[i], self.indices, self.known, self.fix)


@dataclass(frozen=True, eq=False)
class MaskSet:
    """A segmentation data set.

    Attributes:
        name: name in result rows.
        path: the folder.
        classes: K names, in the order of their indices.
        colors: RGB of each class, for figures.
        train: training images.
        val: validation images.
        mean: mean per channel for normalization, RGB in 0..1.
        std: standard deviation per channel for normalization.
        fingerprint: 16 hex digits of the classes, the label indices, and the names and sizes of all files.
        preparation: what was prepared or changed, one line each.
    """

    name: str
    path: Path
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    train: MaskSplit
    val: MaskSplit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str
    preparation: tuple[str, ...] = ()

    def check_classes(self) -> None:
        """Check that there is something to learn and to measure.

        Raises:
            DataError: no pixel of a split has a class, or all those of the training split have the same one; or as in
                `MaskSplit.census`.
        """
        for name, split in (("training", self.train), ("validation", self.val)):
            contained = self._contained(split)
            if sum(contained) >= (2 if split is self.train else 1):
                continue
            what = f"only the class {self.classes[contained.index(True)]!r}" if any(contained) else "no class"
            raise DataError(
                f"{self.path}: the {name} masks hold {what}, and {100 * split.census.ignored:.0f} % of their pixels "
                f"are ignored; save the {len(self.classes)} classes as gray levels 0 to {len(self.classes) - 1} "
                f"({', '.join(map(repr, self.classes[:3]))}{', ...' if len(self.classes) > 3 else ''}), not as 255, "
                "which is ignored by default"
            )

    @property
    def empty_classes(self) -> tuple[str, ...]:
        """Classes without a training pixel."""
        return tuple(name for name, has in zip(self.classes, self._contained(self.train), strict=True) if not has)

    @property
    def notices(self) -> tuple[str, ...]:
        """What was prepared or changed, and classes without a pixel, one line each; decodes masks."""
        from ._empty_classes import empty_classes

        notices = [*self.preparation]
        for name, split in (("train", self.train), ("val", self.val)):
            if text := empty_classes(f"{self.path}: {name}", "pixel", self.classes, self._contained(split)):
                share = f"{100 * split.census.ignored:.0f} %"
                notices.append(text if share == "0 %" else f"{text}; {share} of the pixels are ignored")
        return tuple(notices)

    def _contained(self, split: MaskSplit) -> list[bool]:
        """Whether the masks of a split contain each class, K values."""
        contained: list[bool] = split.census.contained[: len(self.classes)].tolist()
        return contained
