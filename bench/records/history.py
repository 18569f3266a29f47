"""The epochs of a run; those in a row's file are parsed when they are used, because most commands use none."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, overload

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kdbench.datasets._files import read_bytes

from ..errors import StoreError

Percent = Annotated[float, Field(ge=0, le=100.001)]
"""With room for rounding."""

Scores = dict[str, Percent]
"""Metrics in percent, by name."""


Value = Annotated[float, Field(ge=-1e100, le=1e100)]
"""Beyond every float32, and small enough that sums and squares are finite."""


class Record(BaseModel):
    """A part of a row: frozen, strict, without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Epoch(Record):
    """Losses and metrics of one epoch."""

    epoch: int = Field(ge=0, description="Counted from 1; 0 for published weights that were not trained.")
    steps: int = Field(ge=0, description="Optimizer steps since the start of the run.")
    lr: float = Field(ge=0, description="Learning rate at the epoch's last step.")
    losses: dict[str, Value] = Field(description="Mean over the epoch's steps of every weighted loss term.")
    metrics: Scores = Field(description="Validation metrics in percent; empty where not evaluated.")


EPOCHS = TypeAdapter(tuple[Epoch, ...])


class History(Sequence[Epoch]):
    """The epochs in a row's file, parsed at each use.

    Args:
        path: the file.
        checksum: CRC-32 of its bytes when the row was read.
        span: where the JSON list of epochs begins and ends.
        steps: of the last epoch.

    Raises:
        StoreError: at use: the file is gone, changed since the row was read, or an epoch in it is invalid.
    """

    def __init__(self, path: Path, checksum: int, span: tuple[int, int], steps: int) -> None:
        self.path, self.checksum, self.span, self.steps = path, checksum, span, steps

    @overload
    def __getitem__(self, index: int) -> Epoch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Epoch]: ...
    def __getitem__(self, index: int | slice) -> Epoch | Sequence[Epoch]:
        return _epochs(self)[index]

    def __len__(self) -> int:
        return len(_epochs(self))

    def __bool__(self) -> bool:
        return True  # an empty list is never left in its file

    def __iter__(self) -> Iterator[Epoch]:
        return iter(_epochs(self))

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return repr(_epochs(self))

    def __copy__(self) -> History:
        return self

    def __deepcopy__(self, _memo: Any) -> History:
        return self


def epochs_json(history: History) -> bytes:
    """The JSON list of a history's epochs, as it is in the file.

    Raises:
        StoreError: the file is gone or changed since the row was read.
    """
    try:
        content = read_bytes(history.path)
    except OSError as error:
        raise StoreError(f"{history.path} cannot be read: {error.strerror}; give the command again") from error
    if zlib.crc32(content) != history.checksum:
        raise StoreError(f"{history.path} changed while it was in use; give the command again")
    begin, end = history.span
    return content[begin:end]


@lru_cache(maxsize=16)
def _epochs(history: History) -> tuple[Epoch, ...]:
    content = epochs_json(history)
    try:
        return EPOCHS.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["history", *map(str, first["loc"])])
        raise StoreError(
            f"{history.path}: {where}: {first['msg']}; move the file away and its run is done again"
        ) from error
