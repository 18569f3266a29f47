"""From a request to final plans: one a data set, checked and ready to be printed and executed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbench import datasets

from .. import tasks
from ..errors import SpecError
from ..grid.choose import choose, register, with_kd
from ..grid.join import sized, with_pairs
from ..grid.plan import Plan, make_plan
from ..grid.validate import check_request
from ..records.calibration import read_calibration
from ..records.checkpoint import sha256
from ..records.environment import shared_machine
from ..records.store import Store, check_folder
from ..spec import network_name
from ..spec.recipe import load_recipe
from ..spec.request import RunRequest
from ..spec.run import Data, Run
from ..spec.scale import Scale
from ..spec.table import Table
from ..tasks.opened import OpenedData
from ..tasks.precision import without_tf32
from ..trackers import check_trackers
from ..train.job import JobSettings
from .calibrate import calibrate
from .device_facts import device_named
from .devices import machine as machine_of
from .estimates import Estimate, Estimator, Target, target_of
from .fit import misfit
from .inputs import check_inputs
from .memory import GIB, Memory, available, shapes_of
from .precision import with_precision
from .published import SMALL, PublishedData, published
from .schedule import Schedule, make_schedule, threads_of
from .site import Site, site_of
from .teachers import assign, check_networks
from .user_data import detect_format

Log = Callable[[str], None]

ELSEWHERE = 8
"""Loader processes of a job on a device that is not here."""


@dataclass(frozen=True)
class FinalPlan:
    """One data set's share of a request.

    Attributes:
        tables: of the data set.
        request: what the user asked for.
        scale: "full" or "mini".
        data: the data set.
        plan: every run.
        schedule: the plan's jobs, without what is finished.
        memory: what a job has.
        settings: what all jobs have in common.
        site: where they run.
        slots: the device of each job that runs at a time.
        target: that times are estimated for.
        estimates: of each of the schedule's jobs; None where nothing is known.
        on_disk: whether the data is; else its size is as published, and nothing can be trained.
    """

    tables: tuple[Table, ...]
    request: RunRequest
    scale: Scale
    data: Data
    plan: Plan
    schedule: Schedule
    memory: Memory
    settings: JobSettings
    site: Site
    slots: tuple[str, ...]
    target: Target
    estimates: tuple[Estimate | None, ...] = ()
    on_disk: bool = True


def make_plans(tables: Sequence[Table], request: RunRequest, log: Log) -> list[FinalPlan]:
    """The plans of all tables, those of one data set together.

    Raises:
        SpecError, MethodError, DataError, CheckpointError, StoreError: whatever is wrong with the request, before any
            work.
    """
    check_trackers(request.trackers, request.log_dir)
    _check_estimates(request)
    check_folder(request.results)
    site = site_of(request, log)
    request = with_precision(request, site, log)
    register(request.choices)
    paired = with_pairs(tables, request, log)
    tables = choose(paired, request.choices)
    if request.equal_cost:
        tables = with_kd(tables, paired)
    if request.data is not None:
        tables, reading = _tables_for(tables, request.data, request.scale or "full", log)
        request = replace(request, reading=reading)
    groups: dict[tuple[str, str], list[Table]] = {}
    for table in tables:
        groups.setdefault((table.task, table.dataset.full), []).append(table)
    scales = {name: choose_scale(name, request, log) for _, name in groups}
    for (_, name), group in groups.items():
        check_request(group, scales[name], request.changes)
    by_scale = {scale: [t for t in tables if scales[t.dataset.full] == scale] for scale in scales.values()}
    check_networks(by_scale, request)
    plans = [_final_plan(group, scales[name], request, site, log) for (_, name), group in groups.items()]
    _check_any_runs(request, [plan.plan for plan in plans])
    for plan in plans if request.calibrate else ():
        calibrate(plan.schedule.jobs, plan.settings, plan.slots[0], plan.memory.stored, plan.on_disk, log)
    return [_estimated(plan) for plan in plans]


def _check_estimates(request: RunRequest) -> None:
    """Options of a plan's cost.

    Raises:
        SpecError: they contradict each other, or name an unknown device.
    """
    if request.on:
        device_named(request.on)
    given = next((f"--{name}" for name in ("on", "price") if getattr(request, name) is not None), None)
    if given and not request.only_explain:
        raise SpecError(f"{given} is for a plan that is printed; give --explain too, or leave it out")
    if request.calibrate and request.on:
        raise SpecError("--calibrate times this machine, and --on names another; give one of them")
    if request.calibrate and request.engine != "local":
        raise SpecError(
            f"--calibrate times the machine that it runs on; leave --engine {request.engine} out, and give the command "
            "on a machine like those of the jobs, with the same --results"
        )


def _estimated(final: FinalPlan) -> FinalPlan:
    """A plan with the time of each job."""
    rows, calibration = list(final.schedule.finished.values()), read_calibration(final.request.results)
    roofline = final.request.only_explain or not final.site.here
    estimator = Estimator(final.target, rows, calibration, final.memory, final.settings.workers, roofline)
    estimates = tuple(map(estimator.estimate, final.schedule.jobs))
    jobs = tuple(
        replace(job, seconds=known.seconds if known else None)
        for job, known in zip(final.schedule.jobs, estimates, strict=True)
    )
    return replace(final, schedule=replace(final.schedule, jobs=jobs), estimates=estimates)


def _check_any_runs(request: RunRequest, plans: Sequence[Plan]) -> None:
    """Refuse chosen methods of which none can run: what is left would train students alone.

    Raises:
        SpecError: says why the first cannot.
    """
    asked = [choice for choice in request.choices if choice.method != "none"]
    skipped = [each for plan in plans for each in plan.skipped]
    if asked and skipped and all(run.method == "none" for plan in plans for run in plan.runs):
        first = skipped[0]
        raise SpecError(f"no chosen method can run: {first.table} {first.cell}: {first.reason}")


def choose_scale(name: str, request: RunRequest, log: Log) -> Scale:
    """The requested scale, else full when the data set `name` is on disk; the choice is logged."""
    if request.scale:
        return request.scale
    if request.data is not None:
        log("scale full, because --data names a data set (--scale mini uses small networks on it)")
        return "full"
    if path := datasets.present(name, request.data_root):
        log(f"scale full, because {path} exists")
        return "full"
    without = "; --scale full plans without it" if request.only_explain else ""
    missing = "" if request.data_root.is_dir() else ", which does not exist"
    log(
        f"scale mini (embedded data): {name} is not in {request.data_root}{missing}; --data PATH names a data set"
        f"{without}"
    )
    return "mini"


def _tables_for(tables: Sequence[Table], data: Path, scale: Scale, log: Log) -> tuple[list[Table], dict[str, Any]]:
    """The tables whose recipes can read the user's data, and the options with which they do.

    Where some read it as it is, those that read it in another form are left out.

    Raises:
        SpecError: the data does not exist, or no table can read it.
    """
    form = detect_format(data)
    kinds = {table.name: load_recipe(getattr(table.recipe, scale)).image.kind for table in tables}
    kind = next((kind for kind in (form.image_kind, *form.also) if kind in kinds.values()), None)
    others = ", ".join(name for name in kinds if kinds[name] != kind)
    if kind is None:
        raise SpecError(
            f"--data {data} looks like {form.description}, which none of these tables reads at scale {scale} "
            f"({others}); name another table, or choose the other scale"
        )
    if others:
        log(f"left out, because --data {data} looks like {form.description}: {others}")
    return [table for table in tables if kinds[table.name] == kind], form.options(kind)


def _final_plan(tables: Sequence[Table], scale: Scale, request: RunRequest, site: Site, log: Log) -> FinalPlan:
    opened, data, stored = _data(tables, scale, request, log)
    tables, request = sized(tables, scale, request, stored)
    given = assign(tables, scale, request, opened)
    for notice in given.notices:
        log(notice)
    hashes = {network: sha256(file) for network, file in given.files.items()}

    def misfit_of(run: Run) -> str:
        return misfit(run, shapes_of(run, stored, request.gpus))

    plan = make_plan(given.tables, scale, data, request, hashes, misfit_of)
    check_inputs(plan, request, opened)
    workers, taken = (
        (_workers_elsewhere(scale, request), _slots_elsewhere(request))
        if request.on
        else (
            site.workers(scale),
            site.slots(scale),
        )
    )
    _check_precision(plan, taken)
    settings = _settings(request, given.files, _network_files(plan), workers)
    memory = _memory(plan, stored, settings, taken, site)
    threads = threads_of(plan, taken, site.cores)
    exact = request.only_explain or not site.here
    schedule = make_schedule(plan, Store(request.results), memory, threads, exact, request.keep_stale)
    machine = shared_machine(machine_of(taken[0]), request.gpus) if site.here and not request.on else ""
    target = target_of(request, taken[0], machine)
    shared = data, plan, schedule, memory, settings, site, taken, target
    return FinalPlan(tuple(given.tables), request, scale, *shared, on_disk=not isinstance(opened, PublishedData))


def _data(
    tables: Sequence[Table], scale: Scale, request: RunRequest, log: Log
) -> tuple[OpenedData, Data, tuple[int, int]]:
    """The data set of tables, opened and checked; as runs have it; and the size of images that are held as arrays."""
    task, name = tasks.get(tables[0].task), getattr(tables[0].dataset, scale)
    if found := published(tables, scale, request):
        return found, found.data, SMALL
    opened = task.open(name, request.data_root, request.data, request.data_options)
    task.verify(opened)
    for notice in opened.notices:
        log(f"data: {notice}")
    return opened, task.describe(opened), task.stored_size(opened)


def _check_precision(plan: Plan, slots: Sequence[str]) -> None:
    """Refuse recipes in TF32 on a processor.

    Raises:
        SpecError: names the recipe.
    """
    teachers = {run.teacher.id for run in plan.runs if run.teacher}
    for run in plan.runs if "cpu" in slots else ():
        if run.recipe.precision == "tf32":
            raise without_tf32(run.recipe, "a processor", "teacher." if run.id in teachers else "")


def _workers_elsewhere(scale: Scale, request: RunRequest) -> int:
    """Loader processes on a device that is not here."""
    return request.workers if request.workers is not None else ELSEWHERE if scale == "full" else 0


def _slots_elsewhere(request: RunRequest) -> tuple[str, ...]:
    """Jobs at a time on a device that is not here."""
    return ("cuda:0",) * (request.jobs or 1)


def _network_files(plan: Plan) -> set[Path]:
    """The users' files that have networks of a plan."""
    names = {name for run in plan.runs for name in (run.student, run.teacher_network) if name}
    return {path for path in map(network_name.file_of, names) if path is not None}


def _settings(request: RunRequest, teacher_files: dict[str, Path], files: set[Path], workers: int) -> JobSettings:
    return JobSettings(
        data_root=request.data_root,
        data_path=request.data,
        data_options=request.data_options,
        results=request.results,
        teacher_files=teacher_files,
        workers=workers,
        world_size=request.gpus,
        method_files=tuple(sorted({choice.file.resolve() for choice in request.choices if choice.file is not None})),
        network_files=tuple(sorted(files)),
    )


def _memory(plan: Plan, stored: tuple[int, int], settings: JobSettings, slots: Sequence[str], site: Site) -> Memory:
    """What each job has: the share of the device that has least, of what is given or of what is free now."""
    request, limit = site.request, site.request.memory
    if request.on:
        limit = limit or device_named(request.on).memory
    if not site.here or request.on:
        share = request.jobs or 1 if request.engine == "ray" else 1  # of a device that jobs have together
        room = GIB * limit / share if limit else math.inf
        return Memory(slots[0].split(":")[0], room, stored, settings.workers, request.gpus)
    parallel = max((len(stage) for stage in plan.stages), default=1)  # a teacher never runs beside its students
    free = min(
        (GIB * limit if limit else available(device)) / (min(count, parallel) if device == "cpu" else count)
        for device, count in Counter(slots).items()
    )
    return Memory(slots[0].split(":")[0], free, stored, settings.workers, request.gpus)
