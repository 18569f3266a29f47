"""What keeps a measured number from being set against a reported one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..records.row import Row
from ..spec.recipe import Recipe
from ..spec.table import Table
from .matching import Seat
from .verdicts import noise_budget, teacher_differs


def obstacles(
    seat: Seat,
    table: Table,
    rows: Sequence[Row],
    troubled: Sequence[Row],
    teacher: float | None,
    reported_teacher: float | None,
) -> list[str]:
    """All that keeps a measured number from being set against the reported one; at mini scale, all worth knowing."""
    reasons = []
    if recipe := recipe_differences(rows[0], seat.recipe, table):
        reasons.append("recipe: " + "; ".join(recipe))
    reasons += data_differences(rows[0], table)
    reasons += [
        f"seed {row.run.seed} {row.status}: {one_line(row.reason) or 'no number'}; the mean leaves it out"
        for row in troubled
    ]
    if seat.scale == "full":
        budget = noise_budget(table.dataset.full, table.task)
        if teacher is not None and reported_teacher is not None and teacher_differs(teacher, reported_teacher, budget):
            reasons.append(f"teacher {teacher:.1f}, not {reported_teacher:.1f}")
    return [*reasons, *seat.entry.differs]


def recipe_differences(row: Row, wanted: Recipe, table: Table) -> list[str]:
    """Fields of a row's recipe that differ from the table's and can move its numbers: `epochs 1, not 24`."""
    own, theirs = flat(row.run.recipe.model_dump()), flat(wanted.model_dump())
    idle = {"name", "source", "channels_last"} | ({"eval_every"} if table.selection == "last" else set())
    differ = [
        f"{name} {shown(own[name])}, not {shown(theirs.get(name))}" for name in own if own[name] != theirs.get(name)
    ]
    differ = [text for text in differ if text.split(" ")[0] not in idle | {"max_steps"}]
    if own["max_steps"] != theirs["max_steps"]:
        stop = own["max_steps"]
        differ.append(f"stopped after {stop} steps" if stop else f"not stopped after {theirs['max_steps']} steps")
    return differ


def data_differences(row: Row, table: Table) -> list[str]:
    """What of a row's data is not the table's."""
    data = row.run.data
    if row.run.scale == "mini":
        return [] if data.name == table.dataset.mini else [f"data {data.name}, not {table.dataset.mini}"]
    pairs = [
        (data.train_images, table.data_size.train_images, "train images"),
        (data.val_images, table.data_size.val_images, "val images"),
        (data.classes, table.data_size.classes, "classes"),
    ]
    return [f"{own} {what}, not {theirs}" for own, theirs, what in pairs if own != theirs]


def one_line(text: str) -> str:
    """Line breaks and runs of spaces as one space."""
    return " ".join(text.split())


def differences(own: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Every field in which two records differ, those of inner records as `outer.inner`: `epochs 1, not 24`."""
    one, other = flat(own), flat(theirs)
    names = [name for name in one | other if one.get(name) != other.get(name)]
    return [f"{name} {shown(one.get(name))}, not {shown(other.get(name))}" for name in names]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of inner records as `outer.inner`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def shown(value: Any) -> str:
    """A field's value in words."""
    if isinstance(value, tuple | list):
        return str(list(value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
