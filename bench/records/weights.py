"""Rows of published weights: what `kdbench evaluate` measured of a file, one JSON each, beside the rows of runs."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from kdbench.datasets._files import read_bytes

from ..spec.normalisation import Normalisation
from ..spec.recipe import PaddedCrop, Resize, ResizedCrop, ScaledCrop
from ..spec.run import Data
from ..spec.weights import Name, Selection, Sha256, Text
from .atomic import write_atomically
from .history import Record, Scores
from .row import SCHEMA, Count, Environment
from .row_file import CHECKSUM, InvalidRow, invalid_row, other_version, with_checksum

COMMITTED = Path(str(files("kdbench.results"))) / "weights"
"""Rows that come with kdbench; the user's come first."""

MAX_BYTES = 2**20
"""Most bytes of a row."""


class WeightsRow(Record):
    """What a file of published weights scores here."""

    schema_version: int = SCHEMA
    origin: Literal["weights"] = "weights"
    file: str = Field(pattern=r"^[^/\x00-\x1f\x7f]{1,1000}$", description="Name of the file, without its folder.")
    sha256: Sha256
    bytes: Count
    source: Text = Field(description="Where the file was published.")
    licence: str = Field(max_length=200)
    task: Name
    data: Data = Field(description="Of whose validation images `metrics` are.")
    network: Name = Field(description="By the name of the papers' tables, where they have the network.")
    architecture: Name = Field(description="The network of kdbench that has the weights.")
    teacher: str = Field(max_length=200, description="By the name of the papers' tables; empty without a teacher.")
    method: Name = Field(description="`none` for a network that was trained without distillation.")
    fills: Text = Field(description="Which reported number the file is for, in words.")
    metrics: Scores = Field(description="By the reference evaluator, percent.")
    evaluator: str = Field(description="Library that computed `metrics`, with its version.")
    recorded: Scores = Field(description="What the source, or the network's library, states; percent.")
    selection: Selection = Field(description="Epoch of the weights; empty where the source does not say.")
    normalisation: Normalisation
    image: Annotated[Resize | PaddedCrop | ResizedCrop | ScaledCrop, Field(discriminator="kind")] = Field(
        description="How images were prepared, as in a recipe; what concerns training alone has no effect."
    )
    note: Text
    notices: tuple[Text, ...] = Field(description="What differs in the file from the network's own state dict.")
    environment: Environment
    finished: str = Field(description="UTC, ISO 8601.")

    @model_validator(mode="after")
    def _measured(self) -> WeightsRow:
        if not self.metrics:
            raise ValueError("a row of weights needs metrics")
        return self

    @property
    def id(self) -> str:
        """The name of the row's file, without suffix."""
        return f"{self.sha256[:16]}-{_name(self.data.name)}"

    def difference(self, metric: str) -> float | None:
        """Measured minus recorded, in points; None where either is missing."""
        if metric not in self.metrics or metric not in self.recorded:
            return None
        return self.metrics[metric] - self.recorded[metric]


def weights_folder(results: Path) -> Path:
    """The folder of rows of weights that belongs to a folder of runs: beside one that is called runs, else in it."""
    return (results.parent if results.name == "runs" else results) / "weights"


def write_weights(folder: Path, row: WeightsRow, own_data: bool = False) -> Path:
    """Write a row atomically; returns its file.

    Args:
        folder: of rows of weights.
        row: takes the place of an earlier one of the same file and data.
        own_data: the data is not one of kdbench's: its fingerprint is added to the name, which others may have too.

    Raises:
        StoreError: the folder cannot be written or the disk is full.
    """
    path = folder / f"{_names(row)[1 if own_data else 0]}.json"
    write_atomically(path, with_checksum(row.model_dump_json(indent=1).removesuffix("\n}").encode()))
    return path


def read_weights(folders: Iterable[Path]) -> tuple[list[WeightsRow], list[InvalidRow]]:
    """The rows of weights in folders, the first of a name where several folders have it, and all invalid rows."""
    rows: dict[str, WeightsRow] = {}
    invalid: list[InvalidRow] = []
    for folder in {folder.resolve(): folder for folder in folders}.values():
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            row = read_weights_row(path)
            if isinstance(row, InvalidRow):
                invalid.append(row)
            else:
                rows.setdefault(path.stem, row)
    return list(rows.values()), invalid


def read_weights_row(path: Path) -> WeightsRow | InvalidRow:
    """The row in a file, whose name must be that of its content."""
    try:
        content = read_bytes(path, MAX_BYTES)
    except OSError as error:
        return InvalidRow(path, f"cannot be read: {error.strerror or error}", damaged=False)
    end = CHECKSUM.search(content, max(0, len(content) - 64))
    body = content[: end.start()] if end else content
    try:
        row = WeightsRow.model_validate_json(body + b"}" if end else body)
    except ValidationError as error:
        return invalid_row(path, content, error)
    if row.schema_version != SCHEMA:
        return other_version(path, row.schema_version)
    if end is None or int(end[1], 16) != zlib.crc32(body) or end.end() != len(content):
        return InvalidRow(path, "checksum: differs from the file's content, which is damaged or was edited by hand")
    if path.stem not in _names(row):
        return InvalidRow(path, f"sha256 and data: are of {row.id}.json, another row than the file's name says")
    return row


def _names(row: WeightsRow) -> tuple[str, str]:
    """The names that a row's file may have, without suffix: on a data set of kdbench, and on the user's own."""
    return row.id, f"{row.id}-{_name(row.data.fingerprint)}"


def _name(text: str) -> str:
    """`text` as a part of a file's name."""
    return re.sub(r"[^0-9A-Za-z_.-]", "_", text)[:80]
