"""Checks of a plan against its data, before any work."""

from __future__ import annotations

from kdbench import methods

from .. import networks, tasks
from ..grid.plan import Plan
from ..spec.request import RunRequest
from ..spec.run import Run
from ..tasks.base import OpenedData
from ..train import online_teachers


def check_inputs(plan: Plan, request: RunRequest, data: OpenedData) -> None:
    """Every variant of the data can be made, and recipes and methods can be built on it.

    Raises:
        SpecError, MethodError, DataError: names what does not fit.
    """
    _check_networks(plan)
    variants: dict[str, list[Run]] = {}
    for run in plan.runs:
        online_teachers.check(run)
        variants.setdefault(run.data.model_dump_json(), []).append(run)
    for runs in variants.values():
        _check_variant(runs, request, data)


def _check_networks(plan: Plan) -> None:
    """Every network that is trained has the initial weights that its recipe asks for."""
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
