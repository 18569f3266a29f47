"""Checks of a plan against its data and teacher file, before any work."""

from __future__ import annotations

from pathlib import Path

import torch

from kdbench import methods

from .. import networks, tasks
from ..grid.plan import Plan
from ..networks.load import load_network
from ..records import checkpoint
from ..spec.request import RunRequest
from ..spec.run import Run
from ..tasks.base import OpenedData
from ..train import online_teachers


def teacher_sha256(file: Path | None) -> str | None:
    """The identity of a given teacher file.

    Raises:
        CheckpointError: it cannot be read.
    """
    if file is None:
        return None
    checkpoint.read(file)  # a broken file is refused before any work
    return checkpoint.sha256(file)


def check_inputs(plan: Plan, request: RunRequest, data: OpenedData) -> None:
    """Every variant of the data can be made, recipes and methods can be built on it, and the teacher file fits.

    Raises:
        SpecError, MethodError, DataError, CheckpointError: names what does not fit.
    """
    _check_networks(plan, request)
    variants: dict[str, list[Run]] = {}
    for run in plan.runs:
        online_teachers.check(run)
        variants.setdefault(run.data.model_dump_json(), []).append(run)
    for runs in variants.values():
        _check_variant(runs, request, data)
    if request.teacher is not None:
        for name in sorted({run.teacher.student for run in plan.runs if run.teacher}):
            load_network(request.teacher, name, data.classes, torch.device("cpu"))


def _check_networks(plan: Plan, request: RunRequest) -> None:
    """Every network that is trained has the initial weights that its recipe asks for."""
    if request.teacher is None:
        trained = {
            (name, run.recipe.init) for run in plan.runs for name in (run.student, *online_teachers.teacher_names(run))
        }
        for name, init in trained:
            networks.check_init(name, init)


def _check_variant(runs: list[Run], request: RunRequest, data: OpenedData) -> None:
    """The variant of the data that runs share, with each of their recipes and methods."""
    first = runs[0]
    task = tasks.get(first.task)
    if options := first.data.options:
        data = task.open(first.data.name, request.data_root, request.data, options | request.data_options)
    for run in {run.recipe.model_dump_json(): run for run in runs}.values():
        task(data, run.recipe, run.data_seed)
    for run in {(run.method, str(run.options)): run for run in runs}.values():
        methods.build(run.method, task.example_setting(len(data.train), run.data.classes), **run.options)
