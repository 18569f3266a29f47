"""Where each cell of a table stands before any row is looked at, and which rows belong to it.

A row belongs to a cell when scale, student, teacher, method, fully resolved options and the data's variant are the
cell's.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from kdbench import methods

from ..grid import plan as grid
from ..records.row import Row
from ..spec.recipe import Recipe, Scale, load_recipe
from ..spec.reported import Reported
from ..spec.run import Data, Run
from ..spec.table import MethodEntry, Pair, Table

Key = tuple[str, str | None, str, str, str]  # student, teacher, method, resolved options, options of the data
Place = tuple[int, str, int]  # version, data, number of the recipe
Pairing = tuple[str | None, str]  # teacher, None where there is none, and student
Printed = Sequence[tuple[str, list[Reported]]]
Part = TypeVar("Part")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Seat:
    """One cell's place.

    Attributes:
        pair: of the table.
        entry: the method.
        scale: "full" or "mini".
        recipe: the table's for this pair, or the entry's own.
        teacher: network that runs; None where none stands in.
        student: likewise.
        options: resolved; None for a cell that is skipped.
        key: of the rows that belong here.
        rivals: the seats whose rows gains are over: "none", "kd" and "base" (the entry that `against` names).
        others: recipes under which other entries of the pair run the very same: their rows are not this cell's.
        skip: why it cannot run.
    """

    pair: Pair
    entry: MethodEntry
    scale: Scale
    recipe: Recipe
    teacher: str | None
    student: str | None
    options: dict[str, Any] | None = None
    key: Key | None = None
    rivals: dict[str, Seat] = field(default_factory=dict)
    others: tuple[Recipe, ...] = ()
    skip: str = ""


def seats_of(table: Table, scale: Scale, printed: Printed, ran: Container[Pairing] = ()) -> list[Seat]:
    """Every cell of the table in its own order; `ran` are the teachers and students that there are rows of."""
    return [seat for pair in table.pairs for seat in _seats(table, pair, scale, printed, ran)]


class Index:
    """The rows that seats ask for, by seat and by what they ran under; built in time linear in their number."""

    def __init__(self, rows: Iterable[Row], scale: Scale, seats: Sequence[Seat]) -> None:
        keys = {seat.key for seat in seats if seat.key}
        coarse = {key[:3] for key in keys}
        numbers: dict[Recipe, int] = {}
        self._recipe: Callable[[Recipe], int] = _once_each(lambda recipe: numbers.setdefault(recipe, len(numbers)))
        self._data: Callable[[Data], str] = _once_each(lambda data: options_key(data.model_dump()))
        variant: Callable[[Data], str] = _once_each(lambda data: options_key(data.options))
        words: dict[str, str] = {}  # options as Python writes them and as a key holds them
        self._found: dict[Key, dict[Place, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            run = row.run
            kind = (run.student, run.teacher_network, run.method)
            if run.scale == scale and kind in coarse:
                text = repr(run.options)
                own = words.get(text) or words.setdefault(text, options_key(run.options))
                if (key := (*kind, own, variant(run.data))) in keys:
                    self._found[key][self._place(run, run.recipe)].append(row)

    def of(self, seat: Seat) -> list[list[Row]]:
        """A seat's rows in groups of one version, data and recipe."""
        groups = self._found.get(seat.key, {}) if seat.key else {}
        return [rows for rows in groups.values() if rows[0].run.recipe not in seat.others]

    def under(self, recipe: Recipe, seat: Seat, run: Run) -> list[Row]:
        """A seat's rows under `recipe`, and else under what `run` ran under."""
        return self._found.get(seat.key, {}).get(self._place(run, recipe), []) if seat.key else []

    def _place(self, run: Run, recipe: Recipe) -> Place:
        return run.version, self._data(run.data), self._recipe(recipe)


def _once_each(make: Callable[[Part], Made]) -> Callable[[Part], Made]:
    """`make`, asked once for each object: rows that were read together share theirs."""
    made: dict[int, tuple[Part, Made]] = {}  # an object that is kept keeps its id

    def get(part: Part) -> Made:
        found = made.get(id(part)) or made.setdefault(id(part), (part, make(part)))
        return found[1]

    return get


def _seats(table: Table, pair: Pair, scale: Scale, printed: Printed, ran: Container[Pairing]) -> list[Seat]:
    teacher, student, skip = _networks(pair, scale, ran)
    entries = _entries(table, pair, printed)
    data = options_key(pair.data if scale == "full" else pair.mini_data)
    seats: list[Seat] = []
    for entry in entries:
        name = entry.base_recipe or pair.base_recipe or table.recipe.full
        recipe = load_recipe(name, pair.recipe) if scale == "full" else load_recipe(table.recipe.mini)
        reason = skip or entry.skipped_at(scale)
        if reason or student is None:
            seats.append(Seat(pair, entry, scale, recipe, teacher, student, skip=reason))
            continue
        options = methods.resolve(entry.method, entry.options_at(scale))
        shown = teacher if methods.teacher_mode(entry.method, options) != "none" else None
        key = (student, shown, entry.method, options_key(options), data)
        seats.append(Seat(pair, entry, scale, recipe, teacher, student, options, key))
    return [replace(seat, rivals=_rivals(seat, seats), others=_other_recipes(seat, seats)) for seat in seats]


def _networks(pair: Pair, scale: Scale, ran: Container[Pairing]) -> tuple[str | None, str | None, str]:
    """Teacher, student and why they cannot run; of two libraries' networks the one that there are rows of."""
    here = grid.pair_at(pair, scale)
    if reason := grid.given_up(pair, scale):
        return (*here, reason) if scale == "full" else (None, None, reason)
    candidates = [here]
    if scale == "full" and pair.networks and grid.own_networks(pair):
        candidates += [(pair.networks.teacher, pair.networks.student), (pair.teacher, pair.student)]
    taught = [names for names in candidates if names in ran]
    alone = [names for names in candidates if (None, names[1]) in ran]
    teacher, student = next(iter([*taught, *alone]), here)
    return teacher, student, "" if taught or alone else grid.skip_reason(pair, scale)


def _rivals(seat: Seat, seats: Sequence[Seat]) -> dict[str, Seat]:
    others = [other for other in seats if other.entry is not seat.entry and other.key]
    same = [other for other in others if other.entry.base_recipe == seat.entry.base_recipe]
    found = {"base": [other for other in others if other.entry.shown == seat.entry.against]}
    if seat.entry.method != "none":
        found |= {name: [other for other in same if other.entry.method == name] for name in ("none", "kd")}
    return {name: seats[0] for name, seats in found.items() if seats}


def _other_recipes(seat: Seat, seats: Sequence[Seat]) -> tuple[Recipe, ...]:
    same = [other.recipe for other in seats if other.key and other.key == seat.key]
    return tuple(recipe for recipe in same if recipe != seat.recipe)


def options_key(options: dict[str, Any]) -> str:
    """Equal for equal options: tuples count as lists and 1.0 as 1, as they do after a trip through JSON or YAML."""
    return json.dumps(_plain(options), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _entries(table: Table, pair: Pair, printed: Printed) -> tuple[MethodEntry, ...]:
    """The pair's methods; for one that cannot run and names none, those that the paper reports."""
    if entries := table.entries(pair):
        return entries
    names = [
        row.method
        for name, rows in printed
        for row in rows
        if (row.table, row.teacher, row.student) == (name, pair.teacher, pair.student) and row.method != "teacher"
    ]
    return tuple(MethodEntry(method=name) for name in dict.fromkeys(["none", *names]))
