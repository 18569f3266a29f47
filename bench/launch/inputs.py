"""Checks of a plan against its data, before any work."""

from __future__ import annotations

from dataclasses import replace

from kdbench import methods

from .. import networks, tasks
from ..errors import SpecError
from ..grid.plan import Plan
from ..spec.recipe import PaddedCrop, Recipe, ResizedCrop, UnfitRecipeError
from ..spec.request import RunRequest
from ..spec.run import Run
from ..tasks.base import refuse_views
from ..tasks.opened import OpenedData
from ..train import online_teachers
from ..train.optimizer import check_momenta
from .published import PublishedData


def check_inputs(plan: Plan, request: RunRequest, data: OpenedData) -> None:
    """Every variant of the data can be made, and recipes and methods can be built on it.

    Data that is not on disk is not tried: only networks and methods are.

    Raises:
        SpecError, MethodError, DataError: names what does not fit.
    """
    _check_networks(plan)
    teachers = {run.teacher.id for run in plan.runs if run.teacher}
    for run in plan.runs:
        check_divisible(run.recipe, request.gpus, "teacher." if run.id in teachers else "")
    variants: dict[str, list[Run]] = {}
    for run in plan.runs:
        online_teachers.check(run)
        variants.setdefault(run.data.model_dump_json(), []).append(run)
    for runs in variants.values():
        on_disk = not isinstance(data, PublishedData)
        variant = _checked_variant(runs, teachers, request, data) if on_disk else data
        for run in [] if on_disk else runs:
            if not isinstance(run.recipe.image, PaddedCrop):
                refuse_views(methods.views(run.method), run.method)
        _check_methods(runs, len(variant.train), request.gpus)


def check_divisible(recipe: Recipe, gpus: int, owner: str = "") -> None:
    """Refuse batches that several GPUs cannot share equally.

    Raises:
        UnfitRecipeError: says with which batch they can.
    """
    pairs = 2 if _mixes(recipe) else 1  # images are mixed in pairs
    unit = recipe.accumulate * gpus * pairs
    if gpus > 1 and recipe.batch_size % unit:
        raise UnfitRecipeError(
            recipe,
            f"--gpus {gpus} cannot share micro-batches of {recipe.micro_batch_size} images equally"
            f"{', of which pairs are mixed' if pairs > 1 else ''}; give another number of GPUs, or",
            {"batch_size": max(unit, recipe.batch_size - recipe.batch_size % unit)},
            (owner,),
        )


def _mixes(recipe: Recipe) -> bool:
    return isinstance(recipe.image, ResizedCrop) and bool(recipe.image.mixup or recipe.image.cutmix)


def _check_networks(plan: Plan) -> None:
    """Every network that is trained has the initial weights that its recipe asks for."""
    trained = {
        (name, run.recipe.init) for run in plan.runs for name in (run.student, *online_teachers.teacher_names(run))
    }
    for name, init in trained:
        networks.check_init(name, init)


def _checked_variant(runs: list[Run], teachers: set[str], request: RunRequest, data: OpenedData) -> OpenedData:
    """The variant of the data that runs share, with each of their recipes."""
    first = runs[0]
    task = tasks.get(first.task)
    if options := first.data.options:
        data = task.open(first.data.name, request.data_root, request.data, options | request.data_options)
    sharing: dict[str, list[Run]] = {}
    for run in runs:
        sharing.setdefault(run.recipe.model_dump_json(), []).append(run)
    for same in sharing.values():
        try:
            opened = task(data, same[0].recipe, same[0].data_seed)
        except UnfitRecipeError as error:
            raise error.of(sorted({"teacher." if run.id in teachers else "" for run in same})) from error
        for method in sorted({run.method for run in same}):
            opened.check_views(methods.views(method), method)
    return data


def _check_methods(runs: list[Run], samples: int, gpus: int) -> None:
    """The methods of runs on so many training images."""
    task = tasks.get(runs[0].task)
    sizes = {run.id: run.recipe.images_at_once(run.data.train_images, gpus) for run in runs}
    distinct = {
        (
            run.method,
            str(run.options),
            sizes[run.id],
            run.recipe.optimizer,
            run.recipe.nesterov,
            run.recipe.momentum,
        ): run
        for run in runs
    }
    for run in runs:
        if _mixes(run.recipe) and methods.one_class_per_image(run.method):
            problem = f"{run.method} needs one class per image, and images are mixed; give"
            raise UnfitRecipeError(run.recipe, problem, {"image.mixup": 0.0, "image.cutmix": 0.0})
    for run in distinct.values():
        setting = replace(task.example_setting(samples, run.data.classes), batch_size=sizes[run.id])
        method = methods.build(run.method, setting, **run.options)
        try:
            check_momenta(run.recipe, method)
        except SpecError as error:
            raise SpecError(f"{run.method}: {error}") from error
