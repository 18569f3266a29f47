"""Whether a measured number can be compared with a reported one, and why not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..grid.cells import CellSpec
from ..records.row import Row
from ..spec.recipe import Recipe
from ..spec.schema import flattened
from ..spec.table import Selection, Table
from ..text import counted, one_line
from .verdicts import noise_budget, teacher_differs

EPOCHS: dict[Selection, str] = {
    "last": "last epoch",
    "best": "best epoch",
    "mean_last10": "mean of the last ten epochs",
}
"""Which epoch a number is of, in words."""


def incompatibilities(
    spec: CellSpec,
    table: Table,
    rows: Sequence[Row],
    unfinished: Sequence[Row],
    teacher: float | None,
    reported_teacher: float | None,
) -> list[str]:
    """Every reason why a cell's rows cannot be compared with its reported number; at mini scale, notes on the rows.

    Args:
        spec: the cell.
        table: that the cell is of.
        rows: that have a number, under one recipe and data set.
        unfinished: rows of the same group without a number.
        teacher: mean score of the re-measured teachers, percent.
        reported_teacher: the reported score, percent.
    """
    reasons = []
    if recipe := recipe_differences(rows[0], spec.recipe, table):
        reasons.append("recipe: " + "; ".join(recipe))
    taught = rows[0].run.teacher
    # Given weights, of a file or published (no epochs), were trained elsewhere: their score is compared instead.
    is_trained = taught and taught.recipe.epochs and not rows[0].run.teacher_file
    if taught and is_trained and (recipe := _recipes_differ(taught.recipe, spec.teacher_recipe)):
        reasons.append("the teacher's recipe: " + "; ".join(recipe))
    reasons += data_differences(rows[0], table)
    reasons += [
        f"seed {row.run.seed} {row.status}: {one_line(row.reason) or 'no number'}; the mean leaves it out"
        for row in unfinished
    ]
    if spec.scale == "full":
        budget = noise_budget(table.dataset.full, table.task)
        if teacher is not None and reported_teacher is not None and teacher_differs(teacher, reported_teacher, budget):
            reasons.append(f"teacher {teacher:.1f}, not {reported_teacher:.1f}")
    return [*reasons, *spec.entry.differs]


def recipe_differences(row: Row, expected: Recipe, table: Table) -> list[str]:
    """Fields of a row's recipe that differ from the table's and can change its results: `epochs 1, not 24`."""
    return _recipes_differ(row.run.recipe, expected, {"eval_every"} if table.selection == "last" else set())


def _recipes_differ(recipe: Recipe, expected: Recipe, more: Iterable[str] = ("eval_every",)) -> list[str]:
    """`recipe_differences` of two recipes, where `more` fields change no result either."""
    actual, wanted = _fields(recipe), _fields(expected)
    ignored = {"name", "source", "channels_last", "compile", "cudnn_benchmark", "max_steps", *more}
    differ = [
        f"{name} {format_value(actual[name])}, not {format_value(wanted.get(name))}"
        for name in actual
        if name not in ignored and actual[name] != wanted.get(name)
    ]
    if actual["max_steps"] != wanted["max_steps"]:
        stop = actual["max_steps"]
        steps = counted(stop or wanted["max_steps"], "step")
        differ.append(f"{'stopped' if stop else 'not stopped'} after {steps}")
    return differ


def _fields(recipe: Recipe) -> dict[str, Any]:
    """All fields of a recipe, those included that are not written where they are the default."""
    return flattened({**dict(recipe), "image": recipe.image.model_dump()})


def data_differences(row: Row, table: Table) -> list[str]:
    """Sizes of a row's data that differ from the table's; the embedded data of mini scale has none to differ from."""
    data = row.run.data
    if row.run.scale == "mini" or table.data_size is None:
        return []
    sizes = [
        (data.train_images, table.data_size.train_images, "train images"),
        (data.val_images, table.data_size.val_images, "val images"),
        (data.classes, table.data_size.classes, "classes"),
    ]
    return [f"{actual} {name}, not {wanted}" for actual, wanted, name in sizes if actual != wanted]


def selection_differences(selection: Selection, reported: Selection) -> list[str]:
    """Why a number of another epoch than the reported one is not comparable: the best of many is above the last."""
    if selection == reported:
        return []
    return [f"{EPOCHS[selection]}, and the paper reports the {EPOCHS[reported]}"]


def field_differences(actual: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Every field in which two records differ, those of inner records as `outer.inner`: `epochs 1, not 24`."""
    left, right = flattened(actual), flattened(expected)
    names = [name for name in left | right if left.get(name) != right.get(name)]
    return [f"{name} {format_value(left.get(name))}, not {format_value(right.get(name))}" for name in names]


def format_value(value: Any) -> str:
    """A field's value as messages print it."""
    if isinstance(value, tuple | list):
        return str(list(value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
