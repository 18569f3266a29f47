"""Measured times of training steps, in a file of the results folder: `kdbench run --calibrate` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from ..errors import StoreError
from .atomic import write_atomically
from .history import Record

FILE = "calibration.json"
SCHEMA = 1


class Calibrated(Record):
    """Steps of one kind of job that were timed."""

    what: str = Field(description="Networks and methods, for people.")
    machine: str = Field(description="As rows have it.")
    step_seconds: float = Field(ge=0, description="Median.")
    steps: int = Field(ge=1, description="That were timed.")
    synthetic: bool = Field(description="Whether the batches were made up, and none was loaded.")
    commit: str
    libraries: dict[str, str]
    finished: str = Field(description="UTC, ISO 8601.")


class _File(Record):
    schema_version: int = SCHEMA
    steps: dict[str, Calibrated]


def read_calibration(results: Path) -> dict[str, Calibrated]:
    """What was timed, by `key_of` the job and its machine; nothing where there is no file.

    Raises:
        StoreError: the file cannot be read.
    """
    path = results / FILE
    if not path.exists():
        return {}
    try:
        return _File.model_validate_json(path.read_bytes()).steps
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise StoreError(
            f"{path}: is no calibration of this version ({first}); delete it and calibrate again"
        ) from error


def add_calibration(results: Path, steps: Mapping[str, Calibrated]) -> None:
    """Add to the file, in place of earlier values of the same jobs and machine.

    Raises:
        StoreError: it cannot be read or written.
    """
    content = _File(steps=read_calibration(results) | dict(steps)).model_dump(mode="json")
    write_atomically(results / FILE, (json.dumps(content, indent=1) + "\n").encode())
