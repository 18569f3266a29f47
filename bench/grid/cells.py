"""The cells of a table, expanded once: planning makes runs of them, reports look for their rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kdbench import methods

from .. import tasks
from ..errors import SpecError, unknown
from ..spec import image_size
from ..spec.recipe import Recipe, UnfitRecipeError, fitted_milestones, load_recipe
from ..spec.reported import load_reported
from ..spec.run import Data, Run, current_version
from ..spec.scale import Scale
from ..spec.schema import merged
from ..spec.table import MethodEntry, Pair, Table
from ..text import counted
from .pairs import has_substitute, networks_at, skip_reason, unsupported

STUDENT_ONLY = ("resolution", "noise")
"""Data options that concern the student's input or the validation images; the teacher is trained without them."""

NetworkPair = tuple[str | None, str]
"""Teacher, None where there is none, and student."""


class CellKey(NamedTuple):
    """The identity of a cell: what a run is, seed, recipe and data set aside. Options are canonical JSON."""

    scale: Scale
    teacher: str | None
    student: str
    method: str
    options: str
    data: str  # options of the data set

    @classmethod
    def of(cls, run: Run) -> CellKey:
        options, data = canonical(run.options), canonical(run.data.options)
        return cls(run.scale, run.teacher_network, run.student, run.method, options, data)


@dataclass(frozen=True)
class CellSpec:
    """One cell of a table: a pair, a method and a scale, before any run.

    Attributes:
        pair: of the table.
        entry: the method.
        scale: "full" or "mini".
        recipe: the students', a user's changes laid over it.
        teacher_recipe: likewise the teacher's.
        teacher: network that runs; None where the pair has none at this scale.
        student: likewise.
        options: resolved; None for a cell that is skipped.
        key: of the rows that belong here; None for a cell that is skipped.
        skip: why it cannot run; empty when it can.
    """

    pair: Pair
    entry: MethodEntry
    scale: Scale
    recipe: Recipe
    teacher_recipe: Recipe
    teacher: str | None
    student: str | None
    options: dict[str, Any] | None = None
    key: CellKey | None = None
    skip: str = ""

    @property
    def added(self) -> bool:
        """Whether a request added the cell, so that no reported number is about it."""
        return self.entry.added or self.pair.added

    @property
    def reported(self) -> bool:
        """Whether a paper's numbers can be about the cell."""
        return not (self.added or self.entry.control)

    @property
    def data(self) -> dict[str, Any]:
        """Options of the data set: which variant of it the cell is about."""
        return self.pair.data if self.scale == "full" else self.pair.mini_data


def expand(
    table: Table,
    scale: Scale,
    changes: Mapping[str, Any] | None = None,
    measured: Container[NetworkPair] = (),
) -> list[CellSpec]:
    """Every cell of a table in its own order, skipped ones included.

    Args:
        table: validated.
        scale: "full" or "mini".
        changes: a user's, as in `RunRequest.changes`.
        measured: networks that there are rows of. Where a pair can run with either of two libraries, the cell is about
            the networks that have rows.

    Raises:
        SpecError: an unknown recipe or recipe field, a value that does not fit, or a recipe of another task.
        MethodError: an unknown method or option.
    """
    if table.task not in tasks.names():
        raise unknown(f"task of {table.name}", table.task, tasks.names())
    return [cell for pair in table.pairs for cell in expand_pair(table, pair, scale, changes or {}, measured)]


def expand_pair(
    table: Table,
    pair: Pair,
    scale: Scale,
    changes: Mapping[str, Any],
    measured: Container[NetworkPair] = (),
    entries: Sequence[MethodEntry] | None = None,
) -> list[CellSpec]:
    """The cells of one pair, of all its methods or of some `entries`; else as `expand`."""
    teacher, student, skip = _networks(pair, scale, measured)
    load = _recipe_loader(table, pair, scale, changes)
    cells = []
    for entry in entries if entries is not None else _entries(table, pair):
        recipe, teacher_recipe = load(entry)
        cell = CellSpec(pair, entry, scale, recipe, teacher_recipe, teacher, student)
        reason = skip or entry.skipped_at(scale)
        cells.append(replace(cell, skip=reason) if reason or student is None else _keyed(cell, student))
    return cells


def runs_of(
    cell: CellSpec, table: Table, data: Data, seeds: Sequence[int], teacher_file: str | None = None
) -> list[Run]:
    """The runs behind one cell, one a seed.

    Args:
        cell: one that is not skipped.
        table: that the cell is of.
        data: the data set, without options.
        seeds: seed numbers.
        teacher_file: sha256 of a checkpoint used in place of the teacher's run.

    Raises:
        SpecError: a batch is larger than the training set.
    """
    assert cell.student is not None and cell.options is not None, "a skipped cell has no runs"
    mode = methods.teacher_mode(cell.entry.method, cell.options)
    teacher_is_trained = mode == "frozen" and teacher_file is None
    recipes = {"": cell.recipe, "teacher.": cell.teacher_recipe} if teacher_is_trained else {"": cell.recipe}
    for recipe in recipes.values():
        if recipe.batch_size > data.train_images > 0:
            raise UnfitRecipeError(
                recipe,
                f"batch_size {recipe.batch_size} is above the {counted(data.train_images, 'training image')}; lower "
                "it with",
                recipe.batch_within(data.train_images),
                [owner for owner, each in recipes.items() if each == recipe],
            )
    common: dict[str, Any] = {"task": table.task, "scale": cell.scale, "seed": 0}
    first = Run(
        **common,
        version=current_version(cell.recipe),
        data=data.model_copy(update={"options": cell.data}),
        student=cell.student,
        method=cell.entry.method,
        options=cell.options,
        recipe=cell.recipe,
    )
    if mode == "frozen":
        assert cell.teacher is not None
        seen = {name: value for name, value in cell.data.items() if name not in STUDENT_ONLY}
        teacher = Run(
            **common,
            version=current_version(cell.teacher_recipe),
            data=data.model_copy(update={"options": seen}),
            student=cell.teacher,
            method="none",
            options={},
            recipe=cell.teacher_recipe,
        )
        first = first.model_copy(update={"teacher": teacher, "teacher_file": teacher_file})
    elif mode == "online":
        first = first.model_copy(update={"online_teacher": cell.teacher})
    return [first.model_copy(update={"seed": seed}) for seed in seeds]


def canonical(options: Mapping[str, Any]) -> str:
    """Options as JSON, equal for equal options: tuples count as lists and 1.0 as 1, as after a trip through YAML."""
    return json.dumps(_plain(options), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _keyed(cell: CellSpec, student: str) -> CellSpec:
    """The cell with its resolved options and key."""
    method = cell.entry.method
    if cell.entry.added and not methods.known(method):  # its file is gone; the options of an added entry are resolved
        options, teacher = cell.entry.options_at(cell.scale), cell.teacher
    else:
        options = methods.resolve(method, cell.entry.options_at(cell.scale))
        teacher = cell.teacher if methods.teacher_mode(method, options) != "none" else None
    key = CellKey(cell.scale, teacher, student, method, canonical(options), canonical(cell.data))
    return replace(cell, options=options, key=key)


def _networks(pair: Pair, scale: Scale, measured: Container[NetworkPair]) -> tuple[str | None, str | None, str]:
    """Teacher, student and why they cannot run; of two libraries' networks those that have rows."""
    here = networks_at(pair, scale)
    if reason := unsupported(pair, scale):
        return (*here, reason) if scale == "full" else (None, None, reason)
    candidates = [here]
    if scale == "full" and pair.networks and has_substitute(pair):
        candidates += [(pair.networks.teacher, pair.networks.student), (pair.teacher, pair.student)]
    distilled = [names for names in candidates if names in measured]
    alone = [names for names in candidates if (None, names[1]) in measured]
    teacher, student = next(iter([*distilled, *alone]), here)
    return teacher, student, "" if distilled or alone else skip_reason(pair, scale)


def _recipe_loader(
    table: Table, pair: Pair, scale: Scale, changes: Mapping[str, Any]
) -> Callable[[MethodEntry], tuple[Recipe, Recipe]]:
    """The students' recipe for an entry (its own, where it has one) and the teacher's; each is loaded once a pair."""
    full = scale == "full"
    loaded: dict[tuple[str, bool, str], Recipe] = {}

    def load(name: str, teacher: bool, fields: dict[str, Any]) -> Recipe:
        key = (name, teacher, canonical(fields))
        if key not in loaded:
            prefix = "teacher." if teacher else ""
            recipe = load_recipe(name, fields)
            if changed := image_size.changes_of(recipe, changes, teacher):
                changed = fitted_milestones(recipe, changed)
                recipe = load_recipe(name, {**fields, **changed}, f"--set {prefix}FIELD=VALUE, recipe {name}")
            if recipe.task != table.task:
                raise SpecError(f"{table.name}: recipe {recipe.name} is for {recipe.task}, the table for {table.task}")
            tasks.get(recipe.task).check_image_kind(recipe)
            loaded[key] = recipe
        return loaded[key]

    def recipes(entry: MethodEntry) -> tuple[Recipe, Recipe]:
        name = (entry.base_recipe or pair.base_recipe if full else None) or getattr(table.recipe, scale)
        teacher = (pair.base_teacher_recipe if full else None) or getattr(table.teacher_recipe, scale)
        fields, teacher_fields = (merged(pair.recipe, entry.recipe), pair.teacher_recipe) if full else ({}, {})
        return load(name, False, fields), load(teacher, True, teacher_fields)

    return recipes


def _entries(table: Table, pair: Pair) -> tuple[MethodEntry, ...]:
    """The pair's methods; for a pair that cannot run and names none, those that the paper reports."""
    if entries := table.entries(pair):
        return entries
    names = [
        row.method
        for source in table.reported
        for row in load_reported(source.file)
        if (row.table, row.teacher, row.student) == (source.table, pair.teacher, pair.student)
        and row.method != "teacher"
    ]
    return tuple(MethodEntry(method=name) for name in dict.fromkeys(["none", *names]))
