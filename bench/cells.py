"""The cells of a table: one per pair and method, with what the paper prints, what was measured and what that says.

A row belongs to a cell when scale, student, teacher, method and fully resolved options are the cell's. Rows under
several recipes, data sets or teachers are never mixed: one group is taken, and how many rows were left aside is said.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import methods

from .reported import Reported, find, load_reported, student_alone
from .rows import Row
from .specs import MethodEntry, Pair, Recipe, Scale, Selection, Table, load_recipe
from .verdicts import MINI, Sample, Verdict, judge, noise_budget, teacher_differs

Key = tuple[str, str | None, str, str]  # student, teacher, method, resolved options
Index = dict[Key, list[Row]]
Group = tuple[Any, ...]


@dataclass(frozen=True)
class CellCost:
    """Medians over a cell's rows, in the units of `rows.Cost`."""

    params: float
    flops: float
    images_per_second: float
    step_seconds: float
    prepare_seconds: float
    factor: float | None  # training time over that of `none` on the same machine, the earlier phase spread over steps


@dataclass(frozen=True)
class Cell:
    """One teacher-student pair under one method, at one scale. All metrics are in percent."""

    pair: Pair
    entry: MethodEntry
    scale: Scale
    metric: str
    teacher: str | None  # the networks that run at this scale; None where none stand in
    student: str | None
    options: dict[str, Any] | None  # resolved; None for a cell that is skipped
    reported: Reported | None
    teacher_reported: float | None
    selection: Selection  # which epoch is compared
    verdict: Verdict
    rows: tuple[Row, ...] = ()  # that count: one a seed
    troubled: tuple[Row, ...] = ()  # of the same group, without a number
    measured: Sample | None = None
    teacher_measured: float | None = None
    gain: Sample | None = None  # over our own `none`, paired by seed
    cost: CellCost | None = None
    notes: tuple[str, ...] = ()  # on our side; what the paper's side is worth stands in `reported`

    @property
    def label(self) -> str:
        return self.entry.shown

    @property
    def reported_value(self) -> float | None:
        return self.reported.value if self.reported else None

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(sorted({row.environment.machine for row in self.rows}))

    def value(self, row: Row) -> float | None:
        """What `row` measured, by this cell's metric and selection."""
        return headline(row, self.metric, self.selection)


def collect(table: Table, rows: Iterable[Row], scale: Scale) -> list[Cell]:
    """The table's cells in its own order, in time linear in the number of rows.

    Raises:
        SpecError: a recipe or a file of reported numbers that the table names is missing or broken.
        MethodError: the table names a method or an option that does not exist.
    """
    printed = [(source.table, load_reported(source.file)) for source in table.reported]
    seats = [_Seat.of(table, pair, entry, scale) for pair in table.pairs for entry in _entries(table, pair, printed)]
    index = _index(rows, scale, seats)
    return [_cell(table, seat, index, printed) for seat in seats]


def headline(row: Row, metric: str, selection: Selection) -> float | None:
    """One metric of a row in percent; None where the row has no such finite number."""
    if row.status != "done" or row.metrics is None:
        return None
    chosen: dict[str, float] = getattr(row.metrics, selection)
    value = chosen.get(metric)
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class _Seat:
    """Where a cell stands before any row is looked at."""

    pair: Pair
    entry: MethodEntry
    scale: Scale
    recipe: Recipe
    teacher: str | None
    student: str | None
    options: dict[str, Any] | None
    key: Key | None  # of the rows that belong here
    alone: Key | None  # of the rows of our own `none`
    skip: str = ""

    @classmethod
    def of(cls, table: Table, pair: Pair, entry: MethodEntry, scale: Scale) -> _Seat:
        networks = pair.mini if scale == "mini" else pair
        recipe = load_recipe(table.recipe.full, pair.recipe) if scale == "full" else load_recipe(table.recipe.mini)
        skip = pair.skip if scale == "full" else "" if networks else pair.skip or "no small networks stand in for it"
        teacher, student = (networks.teacher, networks.student) if networks else (None, None)
        if skip or student is None:
            return cls(pair, entry, scale, recipe, teacher, student, None, None, None, skip)
        alone = next(other for other in table.entries(pair) if other.method == "none")
        options = methods.resolve(entry.method, entry.options_at(scale))
        own = methods.resolve("none", alone.options_at(scale))
        key = (
            student,
            teacher if methods.teacher_mode(entry.method, options) != "none" else None,
            entry.method,
            options_key(options),
        )
        return cls(
            pair, entry, scale, recipe, teacher, student, options, key, (student, None, "none", options_key(own))
        )


def options_key(options: dict[str, Any]) -> str:
    """Equal for equal options: tuples count as lists and 1.0 as 1, as they do after a trip through JSON or YAML."""
    return json.dumps(_plain(options), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


Printed = Sequence[tuple[str, list[Reported]]]


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


def _index(rows: Iterable[Row], scale: Scale, seats: Sequence[_Seat]) -> Index:
    keys = {key for seat in seats for key in (seat.key, seat.alone) if key}
    coarse = {key[:3] for key in keys}
    index: Index = defaultdict(list)
    for row in rows:
        run = row.run
        kind = (run.student, run.teacher.student if run.teacher else None, run.method)
        if run.scale == scale and kind in coarse and (key := (*kind, options_key(run.options))) in keys:
            index[key].append(row)
    return index


def _cell(table: Table, seat: _Seat, index: Index, printed: Printed) -> Cell:
    reported = _reported(table, seat, printed)
    selection = reported.selection if reported and reported.selection else table.selection
    blank = Cell(
        pair=seat.pair,
        entry=seat.entry,
        scale=seat.scale,
        metric=table.metric,
        teacher=seat.teacher,
        student=seat.student,
        options=seat.options,
        reported=reported,
        teacher_reported=_teacher_reported(table, seat.pair, printed),
        selection=selection,
        verdict=Verdict("skipped", seat.skip) if seat.skip else Verdict("not run"),
        notes=_standing_notes(table, seat, reported, selection),
    )
    found = index.get(seat.key, []) if seat.key else []
    if not found or seat.alone is None:
        return blank
    alone = index.get(seat.alone, [])
    taken, aside = _chosen(found, seat, table)
    return _filled(blank, seat, table, taken, aside, alone)


def _filled(blank: Cell, seat: _Seat, table: Table, taken: Sequence[Row], aside: int, alone: Sequence[Row]) -> Cell:
    counted = tuple(row for row in taken if blank.value(row) is not None)
    troubled = tuple(row for row in taken if blank.value(row) is None)
    notes = list(blank.notes)
    if aside:
        notes.append(f"{aside} other {_rows(aside)} under another recipe, data set or teacher left aside")
    measured = Sample.of([value for row in counted if (value := blank.value(row)) is not None])
    teachers = [row.teacher.measured for row in counted if row.teacher]
    teacher = statistics.fmean(teachers) if teachers else None
    if measured is None:
        verdict = _trouble(troubled)
        peers: list[Row] = []
    else:
        obstacles = _obstacles(blank, seat, table, counted, troubled, teacher)
        if seat.scale == "mini":
            verdict = MINI
            notes += obstacles
        else:
            budget = noise_budget(table.dataset.full, table.task)
            std = blank.reported.std if blank.reported else None
            verdict = judge(measured, blank.reported_value, budget, std, obstacles)
        peers = [row for row in alone if _same_conditions(row, counted[0])]
    changes: dict[str, Any] = {
        "rows": counted,
        "troubled": troubled,
        "measured": measured,
        "teacher_measured": teacher,
        "verdict": verdict,
        "gain": None if seat.entry.method == "none" else _gain(blank, counted, peers),
        "cost": _cost(counted, peers),
        "notes": tuple(notes),
    }
    return Cell(**{**vars(blank), **changes})


def _reported(table: Table, seat: _Seat, printed: Printed) -> Reported | None:
    """The first number that the table's files give this cell; for `none`, failing that, the printed student."""
    names = {"teacher": seat.pair.teacher, "student": seat.pair.student, "metric": table.metric}
    method = seat.entry.reported or seat.entry.method
    for name, rows in printed:
        if row := find(rows, table=name, method=method, **names):
            return row
    if method != "none":
        return None
    alone = (student_alone(rows, table=name, **names) for name, rows in printed)
    return next((row for row in alone if row), None)


def _teacher_reported(table: Table, pair: Pair, printed: Printed) -> float | None:
    for name, rows in printed:
        for row in rows:
            same = (row.table, row.teacher, row.student, row.metric)
            if same == (name, pair.teacher, pair.student, table.metric) and row.teacher_value is not None:
                return row.teacher_value
    return None


def _standing_notes(table: Table, seat: _Seat, reported: Reported | None, selection: Selection) -> tuple[str, ...]:
    notes = [seat.entry.note]
    if selection != table.selection:
        notes.append(f"compared at the {selection} epoch, as this number is reported; the table's is {table.selection}")
    return tuple(note for note in notes if note)


def _chosen(found: Sequence[Row], seat: _Seat, table: Table) -> tuple[list[Row], int]:
    """The rows of the group that counts, one a seed in order, and how many rows were left aside."""
    groups: dict[Group, list[Row]] = defaultdict(list)
    for row in found:
        teacher = row.run.teacher.id if row.run.teacher else None
        groups[(row.run.version, row.run.data, row.run.recipe, teacher, row.run.teacher_file)].append(row)

    def rank(group: Group) -> tuple[int, str]:
        """Nearest to the table's recipe and data first, then the most recent."""
        rows = groups[group]
        differences = [*recipe_differences(rows[0], seat.recipe, table), *_data_differences(rows[0], table)]
        return -len(differences), max(row.finished for row in rows)

    seeds = {row.run.seed: row for row in sorted(groups[max(groups, key=rank)], key=lambda row: row.finished)}
    return [seeds[seed] for seed in sorted(seeds)], len({row.id for row in found}) - len(seeds)


def _same_conditions(one: Row, other: Row) -> bool:
    a, b = one.run, other.run
    return (a.version, a.data, a.recipe) == (b.version, b.data, b.recipe)


def recipe_differences(row: Row, wanted: Recipe, table: Table) -> list[str]:
    """Fields of a row's recipe that differ from the table's and can move its numbers: `epochs 1, not 24`."""
    own, theirs = _flat(row.run.recipe.model_dump()), _flat(wanted.model_dump())
    idle = {"name", "source", "channels_last"} | ({"eval_every"} if table.selection == "last" else set())
    differ = [f"{name} {_shown(own[name])}, not {_shown(theirs[name])}" for name in own if own[name] != theirs[name]]
    differ = [text for text in differ if text.split(" ")[0] not in idle | {"max_steps"}]
    if own["max_steps"] != theirs["max_steps"]:
        stop = own["max_steps"]
        differ.append(f"stopped after {stop} steps" if stop else f"not stopped after {theirs['max_steps']} steps")
    return differ


def _data_differences(row: Row, table: Table) -> list[str]:
    data = row.run.data
    if row.run.scale == "mini":
        return [] if data.name == table.dataset.mini else [f"data {data.name}, not {table.dataset.mini}"]
    pairs = [
        (data.train_images, table.data_size.train_images, "train images"),
        (data.val_images, table.data_size.val_images, "val images"),
        (data.classes, table.data_size.classes, "classes"),
    ]
    return [f"{own} {what}, not {theirs}" for own, theirs, what in pairs if own != theirs]


def _obstacles(
    cell: Cell, seat: _Seat, table: Table, rows: Sequence[Row], troubled: Sequence[Row], teacher: float | None
) -> list[str]:
    """All that keeps a measured number from being set against the reported one; at mini scale, all worth knowing."""
    reasons = []
    if recipe := recipe_differences(rows[0], seat.recipe, table):
        reasons.append("recipe: " + "; ".join(recipe))
    reasons += _data_differences(rows[0], table)
    reasons += [
        f"seed {row.run.seed} {row.status}: {_one_line(row.reason) or 'no number'}; the mean leaves it out"
        for row in troubled
    ]
    if seat.scale == "full":
        budget = noise_budget(table.dataset.full, table.task)
        theirs = cell.teacher_reported
        if teacher is not None and theirs is not None and teacher_differs(teacher, theirs, budget):
            reasons.append(f"teacher {teacher:.1f}, not {theirs:.1f}")
    return [*reasons, *seat.entry.differs]


def _trouble(rows: Sequence[Row]) -> Verdict:
    """The verdict of a cell none of whose runs left a number: the latest one's status and reason."""
    last = max(rows, key=lambda row: row.finished)
    more = f" ({len(rows)} seeds without a number)" if len(rows) > 1 else ""
    if last.status == "done":
        return Verdict("failed", f"its row lacks the metric{more}")
    return Verdict(last.status, f"{_one_line(last.reason)}{more}")


def _gain(cell: Cell, rows: Sequence[Row], peers: Sequence[Row]) -> Sample | None:
    """Mean of per-seed differences to our own `none` under the same data and recipe."""
    alone = {row.run.seed: cell.value(row) for row in sorted(peers, key=lambda row: row.finished)}
    pairs = [(cell.value(row), alone.get(row.run.seed)) for row in rows]
    return Sample.of([ours - none for ours, none in pairs if ours is not None and none is not None])


def _cost(rows: Sequence[Row], peers: Sequence[Row]) -> CellCost | None:
    costs = [row.cost for row in rows if row.cost]
    if not costs:
        return None

    def median(name: str) -> float:
        return float(statistics.median(getattr(cost, name) for cost in costs))

    fields = ("params", "flops", "images_per_second", "step_seconds", "prepare_seconds")
    return CellCost(**{name: median(name) for name in fields}, factor=_cost_factor(rows, peers))


def _cost_factor(rows: Sequence[Row], peers: Sequence[Row]) -> float | None:
    """Seconds a step over those of `none`, median over rows; only against `none` on the same machine."""
    alone: dict[str, list[float]] = defaultdict(list)
    for row in peers:
        if seconds := _seconds(row):
            alone[row.environment.machine].append(seconds)
    ratios = [
        seconds / statistics.median(alone[row.environment.machine])
        for row in rows
        if (seconds := _seconds(row)) and row.environment.machine in alone
    ]
    return float(statistics.median(ratios)) if ratios else None


def _seconds(row: Row) -> float | None:
    """Seconds a step, the method's earlier phase spread over the run."""
    if row.cost is None or row.status != "done" or not row.history:
        return None
    return row.cost.step_seconds + row.cost.prepare_seconds / max(row.history[-1].steps, 1)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return str(list(value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"
