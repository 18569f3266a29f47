"""Measures checkpoints of any program by the evaluator that teachers are measured by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kdbench import datasets
from kdbench.datasets._files import open_regular
from kdbench.datasets.base import DataError

from .. import networks, tasks
from ..errors import CheckpointError, SpecError, unknown
from ..networks.load import load_network, try_networks
from ..records import environment
from ..records.weights import WeightsRow
from ..spec.normalisation import Normalisation
from ..spec.recipe import Recipe, load_recipe
from ..spec.request import RESULTS, data_root
from ..spec.weights import WeightsFile
from ..tasks.base import DataFormat, Task
from ..tasks.loading import cores
from ..tasks.opened import OpenedData
from ..text import counted, printable, shortened
from ..train.frozen_teacher import TOLERANCE, finite_logits
from .table_lookup import default_dataset, find_network, for_evaluation, image_recipe
from .teachers import misfit_message
from .user_data import detect_format

Log = Callable[[str], None]
OF_DATA = "of the data set"
SMALL, MOST_WORKERS = 1000, 8
"""Validation images that need no loader processes, and most of these."""


@dataclass(frozen=True)
class EvaluationRequest:
    """Options of an evaluation.

    Attributes:
        data: a data set of kdbench, or the path of the user's own; None for that of each file.
        ignore_index: of the user's masks.
        recipe: prepares the images; None for that of a table.
        device: where networks run.
        workers: loader processes; None for none where the data is small.
        results: folder of runs, beside which rows are written.
        data_root: folder that holds data sets.
    """

    data: str | None = None
    ignore_index: int | None = None
    recipe: str | None = None
    device: str = "cpu"
    workers: int | None = None
    results: Path = RESULTS
    data_root: Path = field(default_factory=data_root)


class Measured(NamedTuple):
    """The row of a file, and what to say of it."""

    row: WeightsRow
    remarks: list[str]


class _Set(NamedTuple):
    """An opened data set, by name or the user's own."""

    name: str | None  # None for the user's own
    opened: OpenedData
    image_kinds: tuple[str, ...]  # of recipes that read the user's own


class Evaluator:
    """Measures checkpoints; a data set is opened once for all of them.

    Args:
        request: data, recipe and device.
        log: receives what there is to say of the data.

    Raises:
        SpecError: an unknown recipe, or data that is neither a data set nor a path.
    """

    def __init__(self, request: EvaluationRequest, log: Log = lambda _: None) -> None:
        self.request, self.log, self.device = request, log, torch.device(request.device)
        self._given_recipe = load_recipe(request.recipe) if request.recipe else None
        if request.data is not None:
            _check_data(request.data)
        self._sets: dict[tuple[str, str, str], _Set | DataError | SpecError] = {}

    def measure(self, path: Path, weights: WeightsFile) -> Measured:
        """The row of a file.

        Args:
            path: of the file.
            weights: what it is.

        Raises:
            SpecError: an unknown network, data set, recipe or metric.
            CheckpointError: the file is missing, not the one that `weights` says, damaged, or does not fit the network.
            DataError: the data is missing or broken.
            TeacherError: the network's outputs are not finite.
        """
        sha256, size = _identify(path, weights)
        where = self._where(weights)
        network = find_network(weights.network, where if where in datasets.names() else None)
        task = tasks.get(networks.task(network.candidates[0]))
        _check_recorded(weights, task)
        data = self._set(task, where, network.candidates[0])
        architecture, notices = _fitting(path, network.candidates, data.opened.classes)
        stated = networks.published(architecture, path, sha256)
        images = _normalisation(weights, stated, data.opened)
        _check_normalisation(architecture, images)
        recipe = self._recipe(task, architecture, data, stated)
        opened: Any = data.opened
        normalised = replace(opened, mean=images.mean, std=images.std)
        prepared = task(normalised, for_evaluation(recipe, len(opened.train)), 0, self._workers(opened))
        metrics = self._metrics(path, architecture, prepared)
        row = WeightsRow(
            file=shortened(printable(path.name), 900),
            sha256=sha256,
            bytes=size,
            task=task.name,
            data=task.describe(opened),
            network=network.name,
            architecture=architecture,
            metrics=metrics,
            evaluator=prepared.evaluator(True),
            normalisation=images,
            image=recipe.image,
            notices=notices,
            environment=environment.describe(self.device),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            **_described(weights, stated, data.name),
        )
        return Measured(row, _remarks(row, data.opened, task))

    def is_own(self, weights: WeightsFile) -> bool:
        """Whether a file is measured on the user's own data."""
        return self._where(weights) not in datasets.names()

    def _where(self, weights: WeightsFile) -> str:
        return self.request.data or weights.dataset or default_dataset(find_network(weights.network, None).name)

    def _set(self, task: type[Task], where: str, network: str) -> _Set:
        form = None if where in datasets.names() else _format(task, where, network)
        kinds = () if form is None else self._image_kinds(form, network)
        key = task.name, where, "".join(kinds)
        if key not in self._sets:
            try:
                self._sets[key] = self._open(task, where, network, form, kinds)
            except (DataError, SpecError) as error:
                self._sets[key] = error
        found = self._sets[key]
        if isinstance(found, Exception):
            raise found
        return found

    def _image_kinds(self, form: DataFormat, network: str) -> tuple[str, ...]:
        """The one image kind of recipes with which a network reads the user's data."""
        if self._given_recipe is not None:
            return (self._given_recipe.image.kind,)
        return (image_recipe(form.task, network, None, (form.image_kind, *form.also)).image.kind,)

    def _open(
        self, task: type[Task], where: str, network: str, form: DataFormat | None, kinds: tuple[str, ...]
    ) -> _Set:
        root, options = self.request.data_root, {}
        if form is None:
            if self._given_recipe is None:
                image_recipe(task.name, network, where)  # refuses a data set of another task before it is prepared
            name, path = where, None
        else:
            name, path = None, Path(where)
            options = form.options(kinds[0])
            if self.request.ignore_index is not None:
                options["ignore_index"] = self.request.ignore_index
        opened = task.open(where, root, path, options)
        task.verify(opened)
        counts = f"{counted(len(opened.val), 'validation image')}, {counted(len(opened.classes), 'class', 'classes')}"
        self.log(f"data {where}: {counts} ({opened.fingerprint})")
        for notice in opened.notices:
            self.log(f"  {notice}")
        return _Set(name, opened, kinds)

    def _recipe(self, task: type[Task], network: str, data: _Set, stated: networks.PublishedFile | None) -> Recipe:
        if self._given_recipe is not None:
            return self._given_recipe
        recipe = image_recipe(task.name, network, data.name, data.image_kinds)
        if stated is None or recipe.image.kind != "resized_crop":
            return recipe
        update = {name: getattr(stated, name) for name in ("size", "val_resize", "interpolation")}
        return recipe.model_copy(update={"image": recipe.image.model_copy(update=update)})

    def _workers(self, data: OpenedData) -> int:
        if self.request.workers is not None:
            return self.request.workers
        return min(MOST_WORKERS, cores()) if len(data.val) > SMALL else 0

    def _metrics(self, path: Path, architecture: str, task: Task) -> dict[str, float]:
        network = load_network(path, architecture, task.classes, self.device).eval().requires_grad_(False)
        if task.recipe.channels_last:
            network.to(memory_format=torch.channels_last)
        with finite_logits(architecture, path, network):
            metrics = task.evaluate(network, self.device, reference=True, full=True)
        if task.headline not in metrics:
            raise DataError(f"{task.data.path}: its validation set has nothing that {task.headline} could count")
        return metrics


def _format(task: type[Task], where: str, network: str) -> DataFormat:
    """The format of the user's data.

    Raises:
        SpecError: it does not exist, or is for another task.
    """
    _check_data(where)
    form = detect_format(Path(where))
    if form.task != task.name:
        raise SpecError(f"--data {where} looks like {form.description}, and {network} is for {task.name}")
    return form


def _described(weights: WeightsFile, stated: networks.PublishedFile | None, dataset: str | None) -> dict[str, Any]:
    """The fields of a row that say where the weights are from, with what the network's library states."""
    return {
        "source": weights.source or (stated.source if stated else ""),
        "licence": weights.licence or (stated.licence if stated else ""),
        "teacher": _teacher_name(weights.teacher, dataset),
        "method": weights.method,
        "fills": weights.fills,
        "recorded": (stated.metrics if stated else {}) | weights.recorded,
        "selection": weights.selection,
        "note": weights.note,
    }


def _check_data(where: str) -> None:
    """Refuse data that is neither a data set of kdbench nor there.

    Raises:
        SpecError: suggests the nearest data set.
        DataError: the system cannot say whether it exists.
    """
    if where in datasets.names() or where.startswith("detectron2:"):
        return
    datasets.check_path(Path(where))
    if not Path(where).exists():
        raise unknown("data set, and no path that exists", where, datasets.names())


def _identify(path: Path, weights: WeightsFile) -> tuple[str, int]:
    """sha256 and size of a file, which are those of `weights` where it has them.

    Raises:
        CheckpointError: the file cannot be read, or is another one.
    """
    try:
        with open_regular(path) as stream:
            sha256, size = hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()  # type: ignore[arg-type]
    except OSError as error:
        raise CheckpointError(f"file: {path} cannot be read: {error.strerror}; give the path of the weights") from error
    for name, found in (("bytes", size), ("sha256", sha256)):
        if getattr(weights, name) not in (None, found):
            raise CheckpointError(
                f"{name}: is {found} of {path} and {getattr(weights, name)} is stated; get the file again from its "
                "source, or correct the manifest"
            )
    return sha256, size


def _check_recorded(weights: WeightsFile, task: type[Task]) -> None:
    """Refuse recorded values that are of another task.

    Raises:
        SpecError: names the column and the task's metrics.
    """
    for key in weights.recorded:
        try:
            tasks.metric(task.name, key)
        except SpecError as error:
            raise SpecError(f"recorded_{key}: {error}") from error


def _fitting(path: Path, candidates: list[str], classes: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The first of some networks that the weights fit, and what differs from its own state dict.

    Raises:
        SpecError: no network can be built here.
        CheckpointError: they fit none; says what was found.
    """
    missing = [reason for reason in map(networks.unavailable, candidates) if reason]
    available = [name for name in candidates if not networks.unavailable(name)]
    if not available:
        raise SpecError(f"network: {candidates[0]} cannot be built: {missing[0]}")
    trial = try_networks(path, available, classes)
    if not trial.notices:
        raise CheckpointError(misfit_message(path, trial.refusals, classes))
    name = next(name for name in available if name in trial.notices)
    return name, trial.notices[name]


def _teacher_name(name: str, dataset: str | None) -> str:
    """A teacher's name as the tables have it; one that no table has stays."""
    try:
        return find_network(name, dataset).name if name else ""
    except SpecError:
        return name


def _normalisation(weights: WeightsFile, stated: networks.PublishedFile | None, data: OpenedData) -> Normalisation:
    """What the weights state, else their library, else the data set."""
    if weights.normalisation is not None:
        return weights.normalisation
    if stated is not None:
        return Normalisation(mean=stated.mean, std=stated.std, stated=f"of {stated.source}")
    return Normalisation(mean=data.mean, std=data.std, stated=OF_DATA)


def _check_normalisation(network: str, images: Normalisation) -> None:
    """Refuse constants for a network that brings its own.

    Raises:
        SpecError: names the network.
    """
    if (
        images.stated != OF_DATA
        and networks.task(network) == "detection"
        and networks.library(network) != "torchvision"
    ):
        raise SpecError(f"normalisation: {network} normalises as its config says; leave it empty")


def _remarks(row: WeightsRow, data: OpenedData, task: type[Task]) -> list[str]:
    """What differs from what one would expect."""
    remarks = list(row.notices)
    if row.architecture != row.network:
        remarks.append(f"{row.network} is the network {row.architecture}")
    images, headline = row.normalisation, task.metrics[0].key
    if (images.mean, images.std) != (data.mean, data.std):
        mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (images.mean, images.std))
        remarks.append(f"normalised with the weights' own constants: mean {mean}, sd {std}")
    difference = row.difference(headline)
    if guess := task.guesses(row.architecture, row.metrics[headline], row.data):
        remarks.append(guess)
    elif difference is not None and abs(difference) > TOLERANCE:
        remarks.append(
            f"{abs(difference):.2f} points off its recorded {headline}: other weights or another validation set, or "
            "its images were prepared in another way"
        )
    return remarks
