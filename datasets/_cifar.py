"""CIFAR-10 and CIFAR-100, from an .npz file or from the archive that torchvision downloads.

Both hold 50,000 + 10,000 images of 32x32 pixels (Krizhevsky, Learning multiple layers of features from tiny images,
2009, https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

import http.client
import pickle
import tarfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _arrays
from ._arrays import Channels
from .base import DataError, ImageSet

_FAILED = (
    OSError,
    RuntimeError,
    EOFError,
    KeyError,
    tarfile.TarError,
    pickle.UnpicklingError,
    http.client.HTTPException,
)


@dataclass(frozen=True)
class Cifar:
    """Files and constants of CIFAR-10 or CIFAR-100.

    Attributes:
        name: name of the data set and stem of its .npz file.
        title: name in messages.
        reader: class in `torchvision.datasets`, which checks the md5 of every file.
        folder: folder of the unpacked archive.
        archive: file name of the download.
        classes: K names, in label order.
        mean: mean per channel of the training images, as in the papers' recipes.
        std: standard deviation per channel of the training images, as in the papers' recipes.
    """

    name: str
    title: str
    reader: str
    folder: str
    archive: str
    classes: tuple[str, ...]
    mean: Channels
    std: Channels

    def present(self, root: Path) -> Path | None:
        """The file or folder of the data under `root`; None if it is missing."""
        file, folder, archive = root / f"{self.name}.npz", root / self.folder, root / self.archive
        if file.is_file():
            return file
        if folder.is_dir():
            return folder
        return archive if archive.is_file() else None

    def open(self, root: Path) -> ImageSet:
        """The data set from `root/NAME.npz`, else from the archive's pickles, which are downloaded if missing.

        The order of the samples may differ between the two; the fingerprint does not.

        Raises:
            DataError: the data is missing and cannot be downloaded (the message says where to put it), or is broken.
        """
        file = root / f"{self.name}.npz"
        if file.is_file():
            return _arrays.open_npz(file, self.name, self.classes, self.mean, self.std)
        is_present = self.present(root) is not None
        notices = () if is_present else (f"{root / self.folder}: downloaded",)
        arrays = self._pickles(root)
        return _arrays.image_set(self.name, root / self.folder, arrays, self.classes, self.mean, self.std, notices)

    def _pickles(self, root: Path) -> dict[str, NDArray[Any]]:
        """The arrays of the archive; files that are missing or have a wrong md5 are downloaded."""
        from torchvision import datasets

        reader = getattr(datasets, self.reader)
        arrays: dict[str, NDArray[Any]] = {}
        try:
            with warnings.catch_warnings():
                # The pickles are from an old version of NumPy.
                warnings.filterwarnings("ignore", message=r"dtype\(\): align", category=Warning)
                for split, train in (("train", True), ("test", False)):
                    content = reader(root, train=train, download=True)
                    arrays[f"x_{split}"] = content.data
                    arrays[f"y_{split}"] = np.asarray(content.targets)
        except _FAILED as error:
            raise DataError(
                f"{root / self.folder}: {self.title} is missing or broken there and cannot be downloaded ({error}); "
                f"fetch {reader.url} elsewhere and put it at {root / self.archive}, or put the arrays at "
                f"{root / self.name}.npz"
            ) from error
        return arrays
