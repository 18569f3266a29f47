"""What `kdbench run` does with what was asked: tables by data set, plans, and their execution."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdbench import datasets, methods
from kdbench.datasets.base import ArraySplit

from .. import networks, tasks
from ..engines.local import LocalEngine, default_devices
from ..errors import SpecError
from ..grid import plan as grid
from ..networks.load import load_network
from ..records import checkpoint as checkpoints
from ..spec.recipe import Scale, load_recipe
from ..spec.table import Table
from ..train import online_teachers as online
from ..train.job import Job
from . import equal_cost
from .explain import explain
from .memory import GIB, Memory, available
from .user_data import look

if TYPE_CHECKING:
    from ..records.row import Row
    from ..spec.run import Run

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """A request, over what the tables say. `scale` None: full where the data is there, else mini."""

    root: Path
    data: Path | None
    scale: Scale | None
    seeds: tuple[int, ...] | None
    methods: tuple[str, ...]
    changes: dict[str, Any]
    teacher: Path | None
    cohort: int | None
    jobs: int | None
    workers: int | None
    devices: tuple[str, ...]
    timeout: float | None
    results: Path
    ignore_index: int | None = None  # of the masks in `data`
    equal_cost: bool = False  # train `none` as long as each method costs, too
    memory: float | None = None  # GiB of each device, over what is free
    explain: bool = False  # say more of the plan
    capture: bool = False  # steps, as CUDA graphs

    @property
    def reading(self) -> dict[str, Any]:
        """Options for opening `data`."""
        return {} if self.ignore_index is None else {"ignore_index": self.ignore_index}


@dataclass(frozen=True)
class Launch:
    """One data set's share of a request, ready to be carried out."""

    tables: tuple[Table, ...]
    choice: grid.Choice
    plan: grid.Plan
    engine: LocalEngine
    equal_cost: bool


def prepare(tables: Sequence[Table], asked: Asked, cores: int, say: Say) -> list[Launch]:
    """Plan every table, those of one data set together; each plan is printed.

    Raises:
        SpecError, MethodError, DataError, CheckpointError: whatever is wrong with the request, before any work.
    """
    if asked.capture and not all(name.startswith("cuda") for name in asked.devices):
        raise SpecError("--capture: only CUDA has such graphs; leave it out, or name another --device")
    if asked.data is not None:
        tables = _fitting(tables, asked.data, asked.scale or "full", say)
    groups: dict[tuple[str, str], list[Table]] = {}
    for table in tables:
        groups.setdefault((table.task, table.dataset.full), []).append(table)
    scales = {name: _scale(name, asked, say) for _, name in groups}
    for (_, name), group in groups.items():
        grid.check(group, scales[name], asked.changes)
    grid.check_names(tables, asked.methods)
    return [_launch(group, scales[name], asked, cores, say) for (_, name), group in groups.items()]


def _fitting(tables: Sequence[Table], data: Path, scale: Scale, say: Say) -> list[Table]:
    """The tables whose task and recipe a data set of one's own is for.

    Raises:
        SpecError: the data is not there, or no table is for it.
    """
    looks = look(data)
    kinds = {table.name: load_recipe(getattr(table.recipe, scale)).image.kind for table in tables}
    others = ", ".join(name for name in kinds if kinds[name] != looks.kind)
    fitting = [table for table in tables if kinds[table.name] == looks.kind]
    if not fitting:
        raise SpecError(
            f"--data {data} looks like {looks.words}, which no table that was asked for takes at scale {scale} "
            f"({others}); name another table, or choose the other scale"
        )
    if others:
        say(f"left out, because --data {data} looks like {looks.words}: {others}")
    return fitting


def carry_out(launch: Launch, say: Say) -> bool:
    """Run what is not finished; whether every run is done."""
    rows = launch.engine.execute(launch.plan)
    done = _summary(launch.plan, rows, say)
    if not launch.equal_cost:
        return done
    longer = equal_cost.plan(launch.tables, rows, launch.choice)
    say(f"{len(longer.runs)} runs of none, each as long as a method costs")
    return _summary(longer, launch.engine.execute(longer), say) and done


def _launch(tables: Sequence[Table], at: Scale, asked: Asked, cores: int, say: Say) -> Launch:
    data = tasks.open_data(tables[0].task, getattr(tables[0].dataset, at), asked.root, asked.data, asked.reading)
    tasks.verify(data)
    for notice in data.notices:
        say(f"data: {notice}")
    described = tasks.describe(data)
    most = asked.cohort or (1 if at == "full" else grid.MINI_COHORT)
    choice = grid.Choice(at, described, asked.seeds, asked.methods, asked.changes, _sha256(asked.teacher), most)
    plan = grid.plan(tables, choice)
    _check_variants(plan, asked, data)
    _check_teacher(asked.teacher, plan, data)
    job = Job(
        runs=(),
        data_root=asked.root,
        data_path=asked.data,
        reading=asked.reading,
        results=asked.results,
        teacher_file=asked.teacher,
        capture=asked.capture and tables[0].task in tasks.CAPTURED,
        workers=asked.workers if asked.workers is not None else (min(8, os.cpu_count() or 1) if at == "full" else 0),
    )
    if asked.capture and not job.capture:
        say(f"--capture: steps of {tables[0].task} are carried out as they come, because their tensors change shape")
    jobs = asked.jobs or (min(4, cores) if at == "mini" and asked.devices == ("cpu",) else 1)
    memory = _memory(plan, data, job, asked.devices * jobs, asked.memory)
    engine = LocalEngine(job, asked.devices * jobs, asked.timeout, memory.parts)
    explain(plan, engine, memory, described, at, say, asked.explain)
    return Launch(tuple(tables), choice, plan, engine, asked.equal_cost)


def _scale(name: str, asked: Asked, say: Say) -> Scale:
    """The scale asked for; else full when the data set `name` is on disk, and the choice is printed."""
    if asked.scale:
        return asked.scale
    if asked.data is not None:
        say("scale full, because --data names a data set (--scale mini uses small networks on it)")
        return "full"
    if found := datasets.present(name, asked.root):
        say(f"scale full, because {found} is there")
        return "full"
    say(f"scale mini (embedded data): {name} is not in {asked.root}; --data PATH names a data set")
    return "mini"


def changes(settings: Iterable[str]) -> dict[str, Any]:
    """`["lr=0.1"]` -> `{"lr": 0.1}`, values read as YAML.

    Raises:
        SpecError: a setting is not FIELD=VALUE.
    """
    import yaml

    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise SpecError(f"--set {setting}: write FIELD=VALUE, as in --set epochs=1")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SpecError(f"--set {setting}: the value is not valid YAML") from error
        if isinstance(found[name], str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value):
            found[name] = float(value)  # YAML wants 1.0e-2 where people write 1e-2
    return found


def devices(text: str | None) -> list[str]:
    """Names of devices that work.

    Raises:
        SpecError: one does not exist here.
    """
    names = text.split(",") if text else default_devices()
    for name in names:
        try:
            torch.zeros(1, device=name)
        except (RuntimeError, AssertionError) as error:
            there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
            raise SpecError(f"--device {name}: {str(error).splitlines()[0]}; there is: {there}") from error
    return names


def seeds(text: str | None) -> tuple[int, ...] | None:
    """From "3" (0, 1, 2), from "0,4" (0, 4).

    Raises:
        SpecError: anything else.
    """
    if not text:
        return None
    usage = f"--seeds {text}: give how many (3), or which, separated by commas (0,4)"
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SpecError(usage) from error
    found = tuple(range(numbers[0])) if len(numbers) == 1 else numbers
    if not found or min(found) < 0:
        raise SpecError(usage)
    return found


def _sha256(file: Path | None) -> str | None:
    if file is None:
        return None
    checkpoints.read(file)  # a broken file is refused before any work
    return checkpoints.sha256(file)


def _check_variants(plan: grid.Plan, asked: Asked, data: tasks.Opened) -> None:
    """Every variant of `data` can be made, and recipes and methods can be built on as many samples as it has."""
    trained = {(name, run.recipe.init) for run in plan.runs for name in (run.student, *online.teachers(run))}
    for name, init in trained if not asked.teacher else ():
        networks.check_init(name, init)
    for run in plan.runs:
        online.check(run)
    variants: dict[str, list[Run]] = {}
    for run in plan.runs:
        variants.setdefault(run.data.model_dump_json(), []).append(run)
    for runs in variants.values():
        name, options = runs[0].data.name, runs[0].data.options
        variant = (
            tasks.open_data(runs[0].task, name, asked.root, asked.data, options | asked.reading) if options else data
        )
        for run in {run.recipe.model_dump_json(): run for run in runs}.values():
            tasks.build(variant, run.recipe, run.data_seed)
        for run in {(run.method, str(run.options)): run for run in runs}.values():
            setting = grid.any_setting(run.task, len(variant.train), run.data.classes)
            methods.build(run.method, setting, **run.options)


def _check_teacher(file: Path | None, plan: grid.Plan, data: tasks.Opened) -> None:
    """A given teacher file fits every teacher that it stands in for."""
    if file is not None:
        for name in sorted({run.teacher.student for run in plan.runs if run.teacher}):
            load_network(file, name, data.classes, torch.device("cpu"))


def _memory(plan: grid.Plan, data: tasks.Opened, job: Job, devices: Sequence[str], given: float | None) -> Memory:
    """What each job has: the share of the device that has least, of `given` GiB or of what is free now."""
    side_by_side = max((len(stage) for stage in plan.stages), default=1)  # a teacher and its students never are
    shares = Counter(devices)
    room = min(
        (GIB * given if given else available(device)) / (min(count, side_by_side) if device == "cpu" else count)
        for device, count in shares.items()
    )
    stored = data.train.images.shape[1:3] if isinstance(data.train, ArraySplit) else (0, 0)
    return Memory(devices[0].split(":")[0], room, stored, job.workers, job.capture)


def _summary(plan: grid.Plan, rows: list[Row], say: Say) -> bool:
    """Counts by status; whether every run is done."""
    bad = [row for row in rows if row.status != "done"]
    missing = len(plan.runs) - len(rows)
    say(f"{len(rows) - len(bad)} of {len(plan.runs)} runs done; `kdbench table` shows them")
    for row in bad:
        say(f"  {row.status}: {row.run.shown}: {row.reason}")
    if missing:
        say(f"  {missing} runs left no row; run the same command again")
    return bool(plan.runs) and not bad and not missing
