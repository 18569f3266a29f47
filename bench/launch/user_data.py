"""The format of a user's data set, and so its task and the recipes that fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench import datasets

from .. import tasks
from ..errors import SpecError
from ..spec.run import Data
from ..tasks.base import DataFormat


def describe(path: Path, root: Path, options: Mapping[str, Any]) -> tuple[str, Data]:
    """The task that the user's data is for, and the data as rows have it, opened with `options`.

    Raises:
        SpecError: the data does not exist, or no task recognizes it.
        DataError: it is broken.
    """
    task = detect_format(path).task
    opened = tasks.get(task).open(path.name, root, path, dict(options))
    return task, tasks.get(task).describe(opened)


def detect_format(path: Path) -> DataFormat:
    """The format of the user's data, by the first task that recognizes it.

    Raises:
        SpecError: the data does not exist, or no task recognizes it.
        DataError: the system cannot say whether it exists.
    """
    datasets.check_path(path)
    formats = (tasks.get(name).recognizes(path) for name in tasks.names())
    if found := next(filter(None, formats), None):
        return found
    problem = "has an unknown format" if path.exists() else "does not exist"
    raise SpecError(
        f"--data {path} {problem}; give a COCO-format folder, an image folder, a folder of images/ and masks/, or an "
        ".npz of images"
    )
