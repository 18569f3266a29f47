"""A data set that is not on this machine, in the size that tables state: enough for a plan, not for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench import datasets

from ..spec.request import RunRequest
from ..spec.run import Data
from ..spec.scale import Scale
from ..spec.table import DataSize, Table

SMALL = (32, 32)
"""Height and width of CIFAR's images: of those that are held as arrays."""


@dataclass(frozen=True)
class PublishedData:
    """Names and sizes of a data set that is not on disk.

    Attributes:
        name: of the data set.
        path: where it was looked for.
        size: as published.
        fingerprint: of the data where finished rows have it, so that these count; else none is like it.
    """

    name: str
    path: Path
    size: DataSize
    fingerprint: str = "published"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet's, as of most published weights
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    notices: tuple[str, ...] = ()
    empty_classes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(f"class {i}" for i in range(self.size.classes))

    @property
    def train(self) -> range:
        return range(self.size.train_images)

    @property
    def val(self) -> range:
        return range(self.size.val_images)

    @property
    def data(self) -> Data:
        """As runs have it."""
        size = self.size
        return Data(
            name=self.name,
            fingerprint=self.fingerprint,
            train_images=size.train_images,
            val_images=size.val_images,
            classes=size.classes,
        )


def published(tables: Sequence[Table], scale: Scale, request: RunRequest) -> PublishedData | None:
    """The data set of tables in its published size, where a plan is all that is asked for and it is not on disk.

    None where it is on disk or generated, and where no table states its size.
    """
    name = getattr(tables[0].dataset, scale)
    if not request.only_explain or request.data is not None or datasets.is_generated(name):
        return None
    if datasets.present(name, request.data_root) is not None:
        return None
    size = next((table.data_size for table in tables if table.data_size is not None), None)
    return None if size is None else PublishedData(name, request.data_root / name, size)
