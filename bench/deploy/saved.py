"""A finished run's student, read from its file, and the data that it was measured on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdbench import datasets

from .. import tasks
from ..errors import CheckpointError, SpecError
from ..networks.base import Network
from ..networks.load import load_network
from ..records import checkpoint as checkpoints
from ..records.row import Metrics, Row
from ..report.runs import find
from ..tasks.base import Task


@dataclass(frozen=True)
class SavedStudent:
    """The student of a run.

    Attributes:
        row: of the run, which is done.
        name: method and what tells it from other runs of that method.
        file: of its weights.
        classes: K names.
    """

    row: Row
    name: str
    file: Path
    classes: tuple[str, ...]

    @property
    def task(self) -> str:
        return self.row.run.task

    @property
    def title(self) -> str:
        """Teacher, student, method and seed, as `kdbench show` names the run."""
        return self.row.run.name_with(self.name.removeprefix(self.row.run.method))

    @property
    def metrics(self) -> Metrics:
        assert self.row.metrics is not None  # of a row that is done
        return self.row.metrics

    @cached_property
    def network(self) -> Network:
        """With its weights, on the CPU, in evaluation mode."""
        return load_network(self.file, self.row.run.student, self.classes, torch.device("cpu")).eval()


def find_student(results: Path, start: str) -> SavedStudent:
    """The student of the run whose hash begins so.

    Raises:
        SpecError: no run or several have such a hash, or the run is not done.
        CheckpointError: its weights are missing, or are not those that its row was measured of.
    """
    run = find(results, start)
    row = run.row
    if row is None:
        raise SpecError(f"run {run.id} is not done: it has no valid row yet; finish it with `kdbench run`")
    if row.student is None or row.status != "done":
        raise SpecError(f"run {run.id} is not done: {row.status} ({row.reason}); run it again with `kdbench run`")
    file = results / row.student.file
    if not file.is_file():
        raise CheckpointError(
            f"run {run.id} has no weights: {file} is missing; copy it from where the run was trained, or train it again"
        )
    if checkpoints.sha256(file) != row.student.sha256:
        raise CheckpointError(
            f"{file} is damaged or was replaced: its sha256 is not that of the run's row; copy it again from where the "
            "run was trained, or train it again"
        )
    classes = checkpoints.read(file).get("classes")
    if not isinstance(classes, list):
        raise CheckpointError(f"{file} names no classes; train the run again")
    return SavedStudent(row, run.name, file, tuple(map(str, classes)))


@dataclass(frozen=True)
class DataPlace:
    """Where data sets are.

    Attributes:
        root: folder of data sets.
        path: the user's own, for runs on such.
        options: for opening `path`.
    """

    root: Path
    path: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)


def open_task(student: SavedStudent, place: DataPlace) -> Task | str:
    """The task on the data of a student's run; or why that is not at hand.

    Raises:
        SpecError: `place.path` is broken, or not the data of the run.
    """
    run = student.row.run
    task = tasks.get(run.task)
    if place.path is None and run.data.name not in datasets.names():
        return f"{run.data.name} is not a data set of kdbench; give its path with --data"
    try:
        data = task.open(run.data.name, place.root, place.path, run.data.options | place.options)
    except (SpecError, datasets.DataError) as error:
        if place.path is None and isinstance(error, datasets.DataError):
            return str(error)
        if place.path is None:
            raise
        raise SpecError(
            f"--data {place.path} cannot be the data of the run, {run.data.display_name}: {error}; give that, or leave "
            "--data out"
        ) from error
    if data.fingerprint != run.data.fingerprint:
        differs = f"{data.path} is {data.fingerprint}, and the run was measured on {run.data.fingerprint}"
        if place.path is not None:
            raise SpecError(f"--data {differs}; give the data of the run, or leave --data out")
        return differs
    return task(data, run.recipe, run.data_seed)
