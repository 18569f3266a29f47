"""Defaults of a table in a user's file, which a paper's table spells out."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdbench import methods

from ..errors import SpecError, unknown
from .metrics import METRICS
from .recipe import load_recipe

REQUIRED = ("dataset", "recipe", "pairs")
GUIDE = "docs/own-table.md has a whole example"


class Mini(NamedTuple):
    """What runs at mini scale.

    Attributes:
        recipe: of students.
        teacher_recipe: of teachers.
        networks: teacher and student; each `{}` is the detection head of the student at full scale.
    """

    recipe: str
    teacher_recipe: str
    networks: tuple[str, str]


MINI_DATA = "digits"
MINI = {
    "classification": Mini("cifar_mini", "cifar_mini_teacher", ("resnet20", "resnet8")),
    "detection": Mini("coco_mini", "coco_mini_teacher", ("{}_mini_teacher", "{}_mini_student")),
    "segmentation": Mini(
        "cityscapes_mini", "cityscapes_mini_teacher", ("segmenter_mini_teacher", "segmenter_mini_student")
    ),
}
HEADS = ("retinanet", "fcos", "faster_rcnn")


def completed(values: Mapping[str, Any], path: Path, fields: Collection[str]) -> dict[str, Any]:
    """The fields of a table, with a default for each that the file leaves out.

    The file may name one data set and one recipe in place of one for each scale, pairs as `teacher->student`, and
    methods by their names. A value of a wrong type stays, for the table's own check to report.

    Args:
        values: of the file.
        path: of the file.
        fields: names of all fields of a table.

    Raises:
        SpecError: the file has no data set, recipe or pair, or names an unknown recipe.
    """
    if missing := [name for name in REQUIRED if not values.get(name)]:
        for name in difflib.get_close_matches(missing[0], [key for key in values if key not in fields], n=1):
            raise SpecError(f"{path}: unknown field: {name!r}. Did you mean {missing[0]!r}?")
        raise SpecError(
            f"{path}: has no {' and no '.join(missing)}; a table needs {', '.join(REQUIRED[:-1])} and {REQUIRED[-1]}: "
            f"{GUIDE}"
        )
    task = values.get("task") or _task(values["recipe"], path)
    mini = MINI.get(task) if isinstance(task, str) else None
    if mini is None and isinstance(task, str) and isinstance(values["recipe"], str):
        raise SpecError(f"{path}: {unknown('task', task, MINI)}")
    if mini is None:  # a task without small networks and recipes: the file names all
        return {**_texts(path), **values, "task": task}
    teacher = values.get("teacher_recipe", values["recipe"])
    return {
        **_texts(path),
        "metric": METRICS[task][0],
        **values,
        "task": task,
        "dataset": _by_scale(values["dataset"], MINI_DATA),
        "recipe": _by_scale(values["recipe"], mini.recipe),
        "teacher_recipe": _by_scale(teacher, mini.teacher_recipe, values["recipe"]),
        "pairs": _each(values["pairs"], lambda pair: _pair(pair, mini, path)),
        "methods": _methods(values.get("methods") or _default_methods(task)),
    }


def _texts(path: Path) -> dict[str, str]:
    return {
        "name": path.stem,
        "paper": "own",
        "title": "a table of one's own",
        "citation": "No paper reports numbers for this table.",
    }


def _task(recipe: Any, path: Path) -> str:
    """The task of a recipe."""
    name = recipe.get("full") if isinstance(recipe, Mapping) else recipe
    if not isinstance(name, str):
        raise SpecError(f"{path}: recipe must be a name, or a name for each scale: {GUIDE}")
    try:
        return load_recipe(name).task
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def _by_scale(given: Any, mini: str, otherwise: Any = None) -> Any:
    """A value for each scale; of a mapping that lacks one, that scale's default."""
    if isinstance(given, str):
        return {"full": given, "mini": mini}
    if isinstance(given, Mapping):
        full = otherwise if isinstance(otherwise, str) else (otherwise or {}).get("full")
        return {"mini": mini, **({"full": full} if full else {}), **given}
    return given


def _pair(given: Any, mini: Mini, path: Path) -> Any:
    pair = given
    if isinstance(given, str):
        teacher, arrow, student = (part.strip() for part in given.partition("->"))
        if not arrow or not teacher or not student:
            raise SpecError(
                f'{path}: the pair {given!r} must be written "TEACHER->STUDENT", or as teacher: and student:'
            )
        pair = {"teacher": teacher, "student": student}
    if not isinstance(pair, Mapping):
        return pair
    whole = dict(pair) if pair.get("skip") else {"mini": _mini_networks(pair, mini), **pair}
    return whole | {"methods": _methods(pair["methods"])} if pair.get("methods") else whole


def _mini_networks(pair: Mapping[str, Any], mini: Mini) -> dict[str, str]:
    head = next((head for head in HEADS if head in str(pair.get("student"))), HEADS[0])
    teacher, student = (name.format(head) for name in mini.networks)
    return {"teacher": teacher, "student": student}


def _default_methods(task: str) -> list[str]:
    return ["kd"] if task in methods.method_class("kd").tasks else []


def _methods(given: Any) -> Any:
    """Entries with `none`, the student alone, which gains are over."""
    entries = _each(given, lambda entry: {"method": entry} if isinstance(entry, str) else entry)
    if not isinstance(entries, list) or any(isinstance(e, Mapping) and e.get("method") == "none" for e in entries):
        return entries
    return [{"method": "none"}, *entries]


def _each(given: Any, change: Any) -> Any:
    return [change(each) for each in given] if isinstance(given, list) else given
