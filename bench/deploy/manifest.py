"""The machine-readable description of an exported student, from which its model card is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from kdbench.datasets._files import read_bytes

from ..errors import SpecError
from ..records.atomic import write_atomically
from ..records.history import Record, Scores
from ..records.inference import Latency
from ..records.row import Cost, Environment
from .checking import Check
from .plain import Shape

FILE = "student.json"
MAX_BYTES = 2**24


class ExportedFile(Record):
    """A file of a student.

    Attributes:
        format: of `formats.FORMATS`, perhaps with "-int8".
        file: name in the folder.
        bytes: size.
        sha256: of the content.
        inputs: name of each input and its shape; letters are any number.
        outputs: likewise.
        check: what it was found to compute.
        quantized: how it was quantized; empty where it was not.
        notes: what differs from other formats.
        latency: where it was measured.
    """

    format: str
    file: str
    bytes: int
    sha256: str
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    check: Check
    quantized: str = ""
    notes: tuple[str, ...] = ()
    latency: tuple[Latency, ...] = ()


class Manifest(Record):
    """An exported student: where it is from, how it is used, and what it scores.

    Attributes:
        run: the run's hash.
        name: teacher, student, method and seed, in the words of `kdbench show`.
        task: "classification", "detection" or "segmentation".
        network: the student's architecture.
        method: by which it was trained, with its options in `options`.
        options: of the method.
        teacher: network and score, in words; empty where there was none.
        scale: "mini" runs are of embedded data and small networks.
        data: name, variant and fingerprint of the data set.
        train_images: that it learned from.
        val_images: that it was measured on.
        recipe: name of the training recipe.
        classes: K names, in the order of the outputs.
        metrics: of the run's row, percent.
        verdicts: against the numbers that papers report, where there are any.
        preprocessing: steps that turn an RGB image of 8 bits a channel into an input, in order.
        images: further facts about the input: colour order, layout, range of values, mean and deviation.
        licence: what is known about terms of use.
        cost: of training and of a forward.
        environment: where it was trained.
        finished: when, UTC.
        files: one a format.
    """

    schema_version: int = 1
    run: str
    name: str
    task: str
    network: str
    method: str
    options: dict[str, Any]
    teacher: str
    scale: str
    data: str
    train_images: int
    val_images: int
    recipe: str
    classes: tuple[str, ...]
    metrics: Scores
    verdicts: tuple[str, ...]
    preprocessing: tuple[dict[str, Any], ...]
    images: dict[str, Any]
    licence: str
    cost: Cost
    environment: Environment
    finished: str
    files: tuple[ExportedFile, ...] = Field(default=())

    def with_file(self, file: ExportedFile) -> Manifest:
        """The manifest with a file in place of an earlier one of its format."""
        others = [each for each in self.files if each.format != file.format]
        return self.model_copy(update={"files": (*others, file)})


def read_files(folder: Path, run: str) -> tuple[ExportedFile, ...]:
    """The files that were exported to a folder earlier.

    Raises:
        SpecError: the folder holds another run's export, or what describes it is damaged.
    """
    path = folder / FILE
    try:
        found = Manifest.model_validate_json(read_bytes(path, MAX_BYTES))
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise SpecError(
            f"{path} describes an earlier export and is damaged; delete it, or choose another --out"
        ) from error
    if found.run != run:
        raise SpecError(f"--out {folder} holds the export of the run {found.run}; choose another folder")
    return tuple(file for file in found.files if (folder / file.file).is_file())


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write the manifest into a folder; returns its file."""
    write_atomically(folder / FILE, manifest.model_dump_json(indent=1).encode() + b"\n")
    return folder / FILE
