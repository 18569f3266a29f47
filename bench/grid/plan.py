"""From tables to work: cells, runs (each one once), and jobs in the order they must be done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

from kdbench import datasets, methods
from kdbench.methods.base import NetworkInfo, Setting

from .. import networks
from ..errors import SpecError, unknown
from ..spec.recipe import Recipe, Scale, load_recipe
from ..spec.reported import load_reported
from ..spec.run import Data, Run
from ..spec.schema import Spec
from ..spec.table import MethodEntry, Pair, Table
from ..tasks import METRICS

STUDENT_ONLY = ("resolution", "noise")
"""Options of a data set that concern what the student sees, or the test alone; its teacher is trained without them."""

MINI_COHORT = 10
"""Students side by side at mini scale: so two processes that share the small tables end at about the same time."""


@dataclass(frozen=True)
class Choice:
    """What a user asked for, over what the tables say.

    Attributes:
        scale: "full" or "mini".
        data: the data set that is there.
        seeds: seed numbers; the table's when None.
        methods: only these, by method or by the table's label; all when empty. `none` always runs.
        changes: fields of the students' recipe to change; such a run is not comparable with a paper. A field
            `teacher.<field>` is one of the teachers' recipe.
        teacher_file: sha256 of a checkpoint to use in place of trained teachers.
        cohort: most students that train side by side.
    """

    scale: Scale
    data: Data
    seeds: tuple[int, ...] | None = None
    methods: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    teacher_file: str | None = None
    cohort: int = MINI_COHORT


@dataclass(frozen=True)
class Skipped:
    """A cell that cannot be run, and why."""

    table: str
    cell: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What is to be done: `stages` of cohorts, one stage after the other; within a stage the order is free."""

    stages: tuple[tuple[tuple[Run, ...], ...], ...]
    skipped: tuple[Skipped, ...]

    @property
    def runs(self) -> list[Run]:
        return [run for stage in self.stages for cohort in stage for run in cohort]


def plan(tables: Sequence[Table], choice: Choice) -> Plan:
    """Every run that the tables need, teachers first, grouped into cohorts.

    Raises:
        SpecError: an impossible pair, an unknown method or option, a batch larger than the data set.
    """
    students: dict[str, Run] = {}
    skipped: list[Skipped] = []
    for table in tables:
        for i, pair in enumerate(table.pairs):
            if not given_up(pair, choice.scale):
                _check_pair(f"{table.name}: pairs[{i}]", *pair_at(pair, choice.scale), table.task)
            if reason := skip_reason(pair, choice.scale):
                skipped.append(Skipped(table.name, f"{pair.teacher} -> {pair.student}", reason))
                continue
            if replaced := _replaced(table, pair, choice.scale):
                skipped.append(replaced)
            for entry in table.entries(pair):
                if reason := entry.skipped_at(choice.scale):
                    skipped.append(Skipped(table.name, f"{pair.teacher} -> {pair.student} {entry.shown}", reason))
                elif _wanted(entry, choice.methods):
                    for run in runs_of(table, pair, entry, choice):
                        students.setdefault(run.id, run)
    teachers = {run.teacher.id: run.teacher for run in students.values() if run.teacher and not run.teacher_file}
    taught = [run for run in students.values() if run.id not in teachers]  # a student may be a teacher elsewhere
    stages = (cohorts(teachers.values(), choice.cohort), cohorts(taught, choice.cohort))
    return Plan(tuple(stage for stage in stages if stage), tuple(skipped))


def runs_of(table: Table, pair: Pair, entry: MethodEntry, choice: Choice) -> list[Run]:
    """The runs behind one cell, one a seed."""
    teacher, student = pair_at(pair, choice.scale)
    recipe, teacher_recipe = recipes_of(table, pair, choice.scale, choice.changes, entry)
    for one in (recipe, teacher_recipe):
        if one.batch_size > choice.data.train_images > 0:
            raise SpecError(
                f"recipe {one.name}: batch_size {one.batch_size} is above the {choice.data.train_images} training "
                "images; lower it with --set batch_size=N (for teachers --set teacher.batch_size=N)"
            )
    options = methods.resolve(entry.method, entry.options_at(choice.scale))
    data = choice.data.model_copy(update={"options": pair.data if choice.scale == "full" else pair.mini_data})
    shared = {name: value for name, value in data.options.items() if name not in STUDENT_ONLY}
    first = _run(table, choice, data, student, entry.method, options, recipe, 0)
    mode = methods.teacher_mode(entry.method, options)
    if mode == "frozen":
        seen = data.model_copy(update={"options": shared})
        source = _run(table, choice, seen, teacher, "none", {}, teacher_recipe, 0)
        first = first.model_copy(update={"teacher": source, "teacher_file": choice.teacher_file})
    elif mode == "online":
        first = first.model_copy(update={"online_teacher": teacher})
    seeds = choice.seeds if choice.seeds is not None else table.seeds
    return [first.model_copy(update={"seed": seed}) for seed in seeds]


def recipes_of(
    table: Table, pair: Pair, scale: Scale, changes: dict[str, Any], entry: MethodEntry | None = None
) -> tuple[Recipe, Recipe]:
    """The students' recipe (an entry's own, where it has one) and the teacher's, with a user's changes laid over them.

    Raises:
        SpecError: an unknown field or a value that does not fit, or a recipe of another task.
    """
    own, teachers = (dict(pair.recipe), dict(pair.teacher_recipe)) if scale == "full" else ({}, {})
    for name, value in changes.items():
        field = name.removeprefix("teacher.")
        (own if field == name else teachers)[field] = value
    base = (entry.base_recipe if entry else None) or pair.base_recipe
    names = (base, pair.base_teacher_recipe) if scale == "full" else (None, None)
    recipe = load_recipe(names[0] or getattr(table.recipe, scale), own)
    teacher_recipe = load_recipe(names[1] or getattr(table.teacher_recipe, scale), teachers)
    for one in (recipe, teacher_recipe):
        if one.task != table.task:
            raise SpecError(f"{table.name}: recipe {one.name} is for {one.task}, the table for {table.task}")
    return recipe, teacher_recipe


def _run(
    table: Table,
    choice: Choice,
    data: Data,
    student: str,
    method: str,
    options: dict[str, Any],
    recipe: Recipe,
    seed: int,
) -> Run:
    return Run(
        task=table.task,
        scale=choice.scale,
        data=data,
        student=student,
        method=method,
        options=options,
        recipe=recipe,
        seed=seed,
    )


def pair_at(pair: Pair, scale: Scale) -> tuple[str, str]:
    """The names of the networks that a pair runs at a scale: teacher, student.

    Where the library of `networks` is missing, networks here that bear the pair's own names run in their place.
    """
    stand_in = pair.mini if scale == "mini" else pair.networks
    if stand_in is None or (scale == "full" and networks.unavailable(stand_in.student) and own_networks(pair)):
        return pair.teacher, pair.student
    return stand_in.teacher, stand_in.student


def own_networks(pair: Pair) -> bool:
    """Whether networks here bear a pair's own names, and so stand in for those of a library that may be missing."""
    optional = pair.networks is not None and networks.library(pair.networks.student) == "detectron2"
    return optional and {pair.teacher, pair.student} <= set(networks.names())


def given_up(pair: Pair, scale: Scale) -> str:
    """Why a pair can be run at a scale nowhere; empty when it can somewhere."""
    if scale == "full":
        return pair.skip
    return "" if pair.mini else (pair.skip or "no small networks stand in for this pair")


def skip_reason(pair: Pair, scale: Scale) -> str:
    """Why a pair cannot be run at a scale on this machine; empty when it can."""
    return given_up(pair, scale) or next(filter(None, map(networks.unavailable, pair_at(pair, scale))), "")


def _replaced(table: Table, pair: Pair, scale: Scale) -> Skipped | None:
    """The networks of a pair whose library is missing, where others run in their place."""
    wanted = pair.networks
    if scale == "mini" or wanted is None or pair_at(pair, scale) == (wanted.teacher, wanted.student):
        return None
    reason = f"{networks.unavailable(wanted.student)}; {networks.library(pair.student)}'s detectors run instead"
    return Skipped(table.name, f"{wanted.teacher} -> {wanted.student}", reason)


def cohorts(runs: Iterable[Run], most: int) -> tuple[tuple[Run, ...], ...]:
    """Runs that share data, recipe, seed and teacher, in groups of at most `most`.

    A run without a teacher joins a cohort of the same student where there is one, and so costs no data stream.
    Elsewhere networks stay apart: all that they could share is the data, and they can run at the same time.
    """
    hosts: dict[tuple[str, str, int, str], str] = {}
    every = list(runs)
    texts: dict[int, str] = {}  # by the object: the runs of a cell share theirs, and there may be thousands

    def text(spec: Spec) -> str:
        return texts.get(id(spec)) or texts.setdefault(id(spec), spec.model_dump_json())

    def conditions(run: Run) -> tuple[str, str, int]:
        return text(run.data), text(run.recipe), run.seed

    for run in every:
        if run.teacher:
            hosts.setdefault((*conditions(run), run.student), _teacher_key(run))

    def key(run: Run) -> tuple[str, str, int, str]:
        where = conditions(run)
        return *where, _teacher_key(run) or hosts.get((*where, run.student), run.student)

    groups = [sorted(group, key=lambda run: run.method) for _, group in groupby(sorted(every, key=key), key)]
    return tuple(part for group in groups for part in divided(group, -(-len(group) // most)))


def divided(group: Sequence[Run], parts: int) -> list[tuple[Run, ...]]:
    """Parts of nearly equal size, so that none is left waiting for a larger one."""
    ends = [len(group) * i // parts for i in range(parts + 1)]
    return [tuple(group[start:end]) for start, end in pairwise(ends)]


def check(tables: Sequence[Table], scale: Scale, changes: dict[str, Any]) -> None:
    """Everything that can be wrong about a request before its data is opened.

    Raises:
        SpecError or MethodError: a table, or a recipe change.
    """
    for table in tables:
        validate(table)
        for pair in table.pairs:
            if not given_up(pair, scale):
                recipes_of(table, pair, scale, changes)


def validate(table: Table) -> None:
    """Everything about a table that can be wrong without any data: networks, pairs, methods, options, recipes.

    Raises:
        SpecError or MethodError: names the table's field.
    """
    if table.task not in METRICS:
        raise unknown(f"task of {table.name}", table.task, METRICS)
    if table.metric not in METRICS[table.task]:
        raise unknown(f"metric of {table.name}", table.metric, METRICS[table.task])
    if table.dataset.mini not in datasets.names() or table.dataset.full not in datasets.names():
        wrong = next(name for name in (table.dataset.mini, table.dataset.full) if name not in datasets.names())
        raise unknown(f"dataset of {table.name}", wrong, datasets.names())
    _check_reported(table)
    data = Data(name=table.dataset.mini, fingerprint="", train_images=0, val_images=0, classes=0)  # unknown
    built = set()
    scales: tuple[Scale, Scale] = ("full", "mini")
    for scale in scales:
        for i, pair in enumerate(table.pairs):
            if given_up(pair, scale):
                continue
            where = f"{table.name}: pairs[{i}]" + (".mini" if scale == "mini" else "")
            _check_pair(where, *pair_at(pair, scale), table.task)
            if scale == "full" and pair.networks:
                _check_pair(f"{where}.networks", pair.networks.teacher, pair.networks.student, table.task)
            for j, entry in enumerate(table.entries(pair)):
                try:
                    (run,) = runs_of(table, pair, entry, Choice(scale, data, seeds=(0,)))
                    size = min(table.data_size.train_images, 20_000) if scale == "full" else 2_000  # banks take memory
                    if (key := (entry.method, str(run.options), size)) not in built:
                        methods.build(entry.method, any_setting(table.task, size, 10), **run.options)
                        built.add(key)
                except (ValueError, TypeError) as error:
                    raise SpecError(f"{where}, method {j} ({entry.shown}): {error}") from error


def any_setting(task: str, samples: int, classes: int) -> Setting:
    """Shapes to build a method on, to see whether its options are possible on so many samples and classes."""
    if task == "detection":
        network = NetworkInfo(channels=(8, 8), strides=(8, 16))
        return Setting(task, classes, samples, student=network, teacher=network)
    if task == "segmentation":
        network = NetworkInfo(channels=(8, 8, 8, 16, 16, 16), strides=(2, 4, 8, 8, 8, 8))
        return Setting(task, classes, samples, student=network, teacher=network)
    import torch

    norms = tuple(torch.nn.BatchNorm2d(channels) for channels in (8, 16, 32))
    network = NetworkInfo((8, 8, 16, 32), (1, 1, 2, 4), 32, torch.nn.Linear(32, classes), norms)
    return Setting(task, classes, samples, network, network, torch.arange(samples) % classes, steps_per_epoch=10)


def _check_reported(table: Table) -> None:
    """Every printed method that a table names stands in the files it names."""
    rows = [row for source in table.reported for row in load_reported(source.file) if row.table == source.table]
    for source in table.reported:
        if not any(row.table == source.table for row in load_reported(source.file)):
            known = {row.table for row in load_reported(source.file)}
            raise unknown(f"table of results/reported/{source.file}.csv in {table.name}", source.table, known)
    printed = {row.method for row in rows}
    for i, pair in enumerate(table.pairs):
        for entry in table.entries(pair):
            if entry.reported and entry.reported not in printed:
                raise unknown(f"reported method of {table.name}: pairs[{i}]", entry.reported, printed)


def _check_pair(where: str, teacher: str, student: str, task: str) -> None:
    try:
        families = networks.family(teacher), networks.family(student)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
    for name in (teacher, student):
        if networks.task(name) != task:
            raise SpecError(f"{where}: {name} is for {networks.task(name)}, the table for {task}; choose another")
    libraries = networks.library(teacher), networks.library(student)
    if task == "detection" and libraries[0] != libraries[1]:
        raise SpecError(
            f"{where}: {teacher} cannot teach {student}: the one is {libraries[0]}'s and the other {libraries[1]}'s, "
            "whose anchors stand in another order under equal shapes, so that what is compared would not belong "
            "together; choose both from one library"
        )
    if families[0] != families[1]:
        raise SpecError(
            f"{where}: {teacher} cannot teach {student}: a {families[0]} head and a {families[1]} head do not answer "
            "for the same places; choose a teacher and a student of one family"
        )


def _wanted(entry: MethodEntry, names: tuple[str, ...]) -> bool:
    return not names or entry.method == "none" or entry.method in names or entry.shown in names


def check_names(tables: Sequence[Table], names: tuple[str, ...]) -> None:
    """Refuse a `--methods` name that no table has."""
    entries = [entry for table in tables for pair in table.pairs for entry in table.entries(pair)]
    known = {entry.method for entry in entries} | {entry.shown for entry in entries}
    for name in names:
        if name not in known:
            raise unknown("method of these tables", name, known)


def _teacher_key(run: Run) -> str:
    return (run.teacher_file or "") + run.teacher.id if run.teacher else ""
