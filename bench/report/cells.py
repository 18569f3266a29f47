"""The cells of a table: one per pair and method, with what the paper prints, what was measured and what that says.

Rows under several recipes, data sets or teachers are never mixed: one group is taken, and how many rows were left
aside is said.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..records.row import Row
from ..spec.recipe import Scale, stretched
from ..spec.reported import Reported, find, load_reported, student_alone
from ..spec.table import MethodEntry, Pair, Selection, Table
from .comparability import data_differences, obstacles, one_line, recipe_differences
from .gains import CellCost, cost, factor_of, gain
from .matching import Index, Printed, Seat, seats_of
from .verdicts import MINI, Sample, Verdict, judge, noise_budget


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
    gain_kd: Sample | None = None  # over our own plain KD
    gain_base: Sample | None = None  # over the entry that `against` names
    gain_equal: Sample | None = None  # over our own `none` trained as long as this costs
    cost: CellCost | None = None
    notes: tuple[str, ...] = ()  # on our side; what the paper's side is worth stands in `reported`

    @property
    def data(self) -> dict[str, Any]:
        """Options of the data set: which variant of it this cell is about."""
        return self.pair.data if self.scale == "full" else self.pair.mini_data

    @property
    def worth(self) -> float | None:
        """Points gained over `none` for each training time of `none` that the method costs on top."""
        if self.gain is None or self.cost is None or self.cost.factor is None or self.cost.factor < 1.02:
            return None
        return self.gain.mean / (self.cost.factor - 1)

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
    rows = list(rows)
    ran = {(row.run.teacher_network, row.run.student) for row in rows if row.run.scale == scale}
    seats = seats_of(table, scale, printed, ran)
    found = Index(rows, scale, seats)
    return [_cell(table, seat, found, printed) for seat in seats]


def headline(row: Row, metric: str, selection: Selection) -> float | None:
    """One metric of a row in percent; None where the row has no such finite number."""
    if row.status != "done" or row.metrics is None:
        return None
    chosen: dict[str, float] = getattr(row.metrics, selection)
    value = chosen.get(metric)
    return value if value is not None and math.isfinite(value) else None


def _cell(table: Table, seat: Seat, found: Index, printed: Printed) -> Cell:
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
    own = found.of(seat)
    if not own:
        return blank
    taken, aside = _chosen(own, seat, table)
    return _filled(blank, seat, table, taken, aside, found)


def _filled(blank: Cell, seat: Seat, table: Table, taken: Sequence[Row], aside: int, found: Index) -> Cell:
    values = _by_seed(blank, taken)
    counted = tuple(row for row in taken if row.run.seed in values)
    troubled = tuple(row for row in taken if row.run.seed not in values)
    notes = list(blank.notes)
    if aside:
        notes.append(f"{aside} other {_rows(aside)} under another recipe, data set or teacher left aside")
    measured = Sample.of(list(values.values()))
    teachers = [row.teacher.measured for row in counted if row.teacher]
    teacher = statistics.fmean(teachers) if teachers else None
    rivals: dict[str, list[Row]] = {}
    if measured is None:
        verdict = _trouble(troubled)
    else:
        reasons = obstacles(seat, table, counted, troubled, teacher, blank.teacher_reported)
        if seat.scale == "mini":
            verdict = MINI
            notes += reasons
        else:
            budget = noise_budget(table.dataset.full, table.task)
            std = blank.reported.std if blank.reported else None
            verdict = judge(measured, blank.reported_value, budget, std, reasons)
        rivals = {name: _rows_of(rival, seat, counted[0], found) for name, rival in seat.rivals.items()}
    paid = cost(counted, counted if seat.entry.method == "none" else rivals.get("none", []))
    changes: dict[str, Any] = {
        "rows": counted,
        "troubled": troubled,
        "measured": measured,
        "teacher_measured": teacher,
        "verdict": verdict,
        "gain": gain(values, _by_seed(blank, rivals.get("none", []))),
        "gain_kd": gain(values, _by_seed(blank, rivals.get("kd", []))),
        "gain_base": gain(values, _by_seed(blank, rivals.get("base", []))),
        "gain_equal": _gain_equal(blank, seat, counted, paid, found),
        "cost": paid,
        "notes": tuple(notes),
    }
    return Cell(**{**vars(blank), **changes})


def _gain_equal(blank: Cell, seat: Seat, counted: Sequence[Row], paid: CellCost | None, found: Index) -> Sample | None:
    factor = factor_of(paid.factor if paid else None)
    if factor is None or "none" not in seat.rivals:
        return None
    run = counted[0].run
    longer = stretched(run.recipe, factor)
    rivals = found.under(longer, seat.rivals["none"], run)
    return gain(_by_seed(blank, counted), _by_seed(blank, rivals))


def _by_seed(cell: Cell, rows: Sequence[Row]) -> dict[int, float]:
    """What rows measured, by seed; of several of a seed the last one counts."""
    seeds = {row.run.seed: row for row in rows}
    if len(seeds) < len(rows):
        seeds = {row.run.seed: row for row in sorted(rows, key=lambda row: row.finished)}
    return {seed: value for seed, row in seeds.items() if (value := cell.value(row)) is not None}


def _reported(table: Table, seat: Seat, printed: Printed) -> Reported | None:
    """The first number that the table's files give this cell; for `none`, failing that, the printed student."""
    pair = seat.pair
    names: dict[str, Any] = {"teacher": pair.teacher, "student": pair.student, "metric": table.metric}
    names["strategy"] = pair.strategy
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
            wanted = (name, pair.teacher, pair.student, table.metric)
            if same == wanted and pair.strategy in (None, row.strategy) and row.teacher_value is not None:
                return row.teacher_value
    return None


def _standing_notes(table: Table, seat: Seat, reported: Reported | None, selection: Selection) -> tuple[str, ...]:
    notes = [seat.entry.note]
    if selection != table.selection:
        notes.append(f"compared at the {selection} epoch, as this number is reported; the table's is {table.selection}")
    return tuple(note for note in notes if note)


def _chosen(found: Sequence[list[Row]], seat: Seat, table: Table) -> tuple[list[Row], int]:
    """The rows of the group that counts, one a seed in order, and how many rows were left aside."""
    groups = [rows for alike in found for rows in _by_teacher(alike)]

    def rank(rows: list[Row]) -> tuple[int, str]:
        """Nearest to the table's recipe and data first, then the most recent."""
        differences = [*recipe_differences(rows[0], seat.recipe, table), *data_differences(rows[0], table)]
        return -len(differences), max(row.finished for row in rows)

    taken = max(groups, key=rank)
    seeds = {row.run.seed: row for row in sorted(taken, key=lambda row: row.finished)}
    return [seeds[seed] for seed in sorted(seeds)], len({row.id for rows in groups for row in rows}) - len(seeds)


def _by_teacher(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in groups of one teacher."""
    groups: dict[tuple[str, str | None], list[Row]] = defaultdict(list)
    for row in rows:
        teacher = row.run.teacher
        groups[teacher.id if teacher else "", row.run.teacher_file].append(row)
    return list(groups.values())


def _rows_of(rival: Seat, seat: Seat, counted: Row, found: Index) -> list[Row]:
    """A rival's rows under the conditions of the row that is counted, a recipe of the rival's own aside."""
    own = rival.recipe != seat.recipe
    return found.under(rival.recipe if own else counted.run.recipe, rival, counted.run)


def _trouble(rows: Sequence[Row]) -> Verdict:
    """The verdict of a cell none of whose runs left a number: the latest one's status and reason."""
    last = max(rows, key=lambda row: row.finished)
    more = f" ({len(rows)} seeds without a number)" if len(rows) > 1 else ""
    if last.status == "done":
        return Verdict("failed", f"its row lacks the metric{more}")
    return Verdict(last.status, f"{one_line(last.reason)}{more}")


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"
