"""The cells of a table with their evidence: reported and measured numbers, verdict, gains and cost.

Rows under several recipes, data sets or teachers are never mixed: one group is used, and the number of rows that were
left out is reported.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .. import tasks
from ..grid.cells import CellSpec, canonical, expand
from ..records.row import Row
from ..records.stale import is_stale
from ..spec.reported import Reported, load_reported
from ..spec.reruns import tuning
from ..spec.scale import Scale
from ..spec.table import MethodEntry, Pair, Selection, Table
from ..text import one_line
from .comparability import data_differences, incompatibilities, recipe_differences, selection_differences
from .evidence import NOTHING, Claim, Evidence, Kind, Published, Subject, gather
from .gains import CellCost, cost, equal_cost_factor, equal_cost_recipe, gain, is_longer
from .inference_cost import CellInference
from .matching import RowIndex, longer_recipes, other_recipes, references
from .reported_numbers import ReportedTables, number, teacher_number
from .verdicts import MINI, Sample, Verdict, make_verdict, noise_budget


@dataclass(frozen=True)
class Cell:
    """One cell of a table with its evidence. All metrics are in percent.

    Attributes:
        spec: what the cell runs.
        metric: that the table is about.
        reported: the number of the paper.
        teacher_reported: likewise of the teacher.
        selection: which epoch is compared.
        verdict: of measured against reported.
        rows: those that the measurement rests on, one a seed.
        unfinished: rows of the same group without a number.
        measured: mean over seeds.
        teacher_measured: mean of the re-measured teachers.
        gain: over our `none`, paired by seed.
        gain_kd: over our plain KD.
        gain_base: over the entry that `gain_over` names.
        gain_equal: over our `none` trained for as long as this method takes.
        gain_kd_equal: likewise over our plain KD.
        cost: medians over rows.
        inference: cost of inference, where it was measured.
        evidence: for the reported number, beside what was trained here; at full scale only.
        settings: whether the authors tuned the method's options pair by pair; empty where that is not known.
        notes: about the measurement; notes about the reported number are in `reported`.
    """

    spec: CellSpec
    metric: str
    reported: Reported | None
    teacher_reported: float | None
    selection: Selection
    verdict: Verdict
    rows: tuple[Row, ...] = ()
    unfinished: tuple[Row, ...] = ()
    measured: Sample | None = None
    teacher_measured: float | None = None
    gain: Sample | None = None
    gain_kd: Sample | None = None
    gain_base: Sample | None = None
    gain_equal: Sample | None = None
    gain_kd_equal: Sample | None = None
    cost: CellCost | None = None
    inference: CellInference | None = None
    evidence: Mapping[Kind, Evidence] = field(default_factory=dict)
    settings: str = ""
    notes: tuple[str, ...] = ()

    @property
    def pair(self) -> Pair:
        return self.spec.pair

    @property
    def entry(self) -> MethodEntry:
        return self.spec.entry

    @property
    def scale(self) -> Scale:
        return self.spec.scale

    @property
    def teacher(self) -> str | None:
        """The network that runs at this scale; None where the table names none."""
        return self.spec.teacher

    @property
    def student(self) -> str | None:
        return self.spec.student

    @property
    def options(self) -> dict[str, Any] | None:
        """Resolved; None for a cell that is skipped."""
        return self.spec.options

    @property
    def data(self) -> dict[str, Any]:
        """Options of the data set: which variant of it this cell is about."""
        return self.spec.data

    @property
    def gain_per_time(self) -> float | None:
        """Points gained over `none` per extra training time, in units of the time of `none`."""
        if self.gain is None or self.cost is None or self.cost.factor is None or self.cost.factor < 1.02:
            return None
        return self.gain.mean / (self.cost.factor - 1)

    @property
    def label(self) -> str:
        return self.entry.display_name

    @property
    def reported_value(self) -> float | None:
        return self.reported.value if self.reported else None

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(sorted({row.environment.machine for row in self.rows}))

    def value(self, row: Row) -> float | None:
        """What `row` measured, by this cell's metric and selection."""
        return headline(row, self.metric, self.selection)


def collect(
    table: Table,
    rows: Iterable[Row],
    scale: Scale,
    published: Published = NOTHING,
    select: Selection | None = None,
) -> list[Cell]:
    """The table's cells in its own order, in time linear in the number of rows; rows of other data sets are left out.

    Args:
        table: validated.
        rows: what was trained here.
        scale: "full" or "mini".
        published: what others published.
        select: the epoch to show; without it, the one that is reported.

    Raises:
        SpecError: a recipe or a file of reported numbers that the table names is missing or broken.
        MethodError: the table names a method or an option that does not exist.
    """
    reported = [(source.table, load_reported(source.file)) for source in table.reported]
    rows = [row for row in rows if row.run.data.name == getattr(table.dataset, row.run.scale)]
    measured = {(row.run.teacher_network, row.run.student) for row in rows if row.run.scale == scale}
    specs = expand(table, scale, measured=measured)
    context = _Context(table, reported, specs, RowIndex(rows, specs), published, select)
    return _with_plain_gains([_cell(spec, context) for spec in specs])


def headline(row: Row, metric: str, selection: Selection) -> float | None:
    """One metric of a row in percent; None where the row has no such finite number."""
    if row.status != "done" or row.metrics is None:
        return None
    chosen: dict[str, float] = getattr(row.metrics, selection)
    value = chosen.get(metric)
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class _Context:
    """What all cells of a table are filled from."""

    table: Table
    reported: ReportedTables
    specs: Sequence[CellSpec]
    index: RowIndex
    published: Published
    select: Selection | None


def _cell(spec: CellSpec, context: _Context) -> Cell:
    table = context.table
    reported = number(table, spec, context.reported)
    reported_selection = _reported_selection(table, reported)
    selection = context.select or reported_selection
    empty = Cell(
        spec=spec,
        metric=table.metric,
        reported=reported,
        teacher_reported=teacher_number(table, spec.pair, context.reported),
        selection=selection,
        verdict=Verdict("skipped", spec.skip) if spec.skip else Verdict("not run"),
        evidence=_evidence(spec, reported, reported_selection, context),
        settings=_settings(spec, context),
        notes=_standing_notes(table, spec, reported_selection if selection == reported_selection else None),
    )
    groups = context.index.groups(spec, other_recipes(spec, context.specs))
    return _filled(empty, groups, context) if groups else empty


def _evidence(
    spec: CellSpec, reported: Reported | None, selection: Selection, context: _Context
) -> dict[Kind, Evidence]:
    """What others measured of a cell; nothing at mini scale, or of a variant of the data."""
    if spec.scale == "mini" or spec.data or not spec.reported:
        return {}
    table, method = context.table, spec.entry.reported or spec.entry.method
    subject = Subject(table.dataset.full, spec.pair.teacher, spec.pair.student, method, table.metric)
    budget = noise_budget(table.dataset.full, table.task)
    return gather(Claim(subject, reported, selection, budget), context.published)


def _settings(spec: CellSpec, context: _Context) -> str:
    """Whether a method's options differ between pairs: in the authors' files, else in the table."""
    if spec.scale == "mini" or spec.entry.method == "none" or not spec.reported:
        return ""
    method = spec.entry.reported or spec.entry.method
    if published := [setting for setting in context.published.settings if setting.method == method]:
        return tuning(published)
    same = [each for each in context.specs if each.entry.display_name == spec.entry.display_name and each.options]
    if len({id(each.pair) for each in same}) < 2:
        return ""
    return "one setting" if len({canonical(each.options or {}) for each in same}) == 1 else "tuned per pair"


def _filled(empty: Cell, groups: Sequence[list[Row]], context: _Context) -> Cell:
    """The cell with the evidence in its rows: the measurement, its verdict, gains and cost."""
    spec, table, index = empty.spec, context.table, context.index
    chosen, left_out = _chosen(groups, spec, context)
    values = _by_seed(empty, chosen)
    counted = tuple(row for row in chosen if row.run.seed in values)
    unfinished = tuple(row for row in chosen if row.run.seed not in values)
    cell = replace(empty, rows=counted, unfinished=unfinished, measured=Sample.of(list(values.values())))
    if left_out:
        note = f"{left_out} other {_rows(left_out)} under another recipe, data set or teacher left out"
        cell = replace(cell, notes=(*cell.notes, note))
    if stale := sum(map(is_stale, chosen)):
        note = f"stale: the code of {spec.entry.method} has changed since {stale} of {len(chosen)} {_rows(len(chosen))}"
        cell = replace(cell, notes=(*cell.notes, f"{note}; `kdbench run` does them again"))
    if stale := sum(map(index.has_old_teacher, chosen)):
        note = f"stale: the teacher was trained again since {stale} of {len(chosen)} {_rows(len(chosen))}"
        cell = replace(cell, notes=(*cell.notes, f"{note}; `kdbench run` does them again"))
    if not counted:
        return replace(cell, verdict=_failure(unfinished))
    cell = _with_verdict(cell, table)
    over = references(spec, context.specs)
    rows = {name: _rows_of(reference, spec, counted[0], index) for name, reference in over.items()}
    paid = cost(counted, counted if spec.entry.method == "none" else rows.get("none", []), rows.get("kd", []))
    by_seed = {name: _by_seed(cell, some) for name, some in rows.items()}
    cell = replace(
        cell,
        gain=gain(values, by_seed.get("none", {})),
        gain_kd=gain(values, by_seed.get("kd", {})),
        gain_base=gain(values, by_seed.get("base", {})),
        cost=paid,
    )
    return _with_equal_cost(cell, over, index)


def _with_verdict(cell: Cell, table: Table) -> Cell:
    """The cell with its re-measured teacher and the verdict of measured against reported."""
    teachers = [row.teacher.measured for row in cell.rows if row.teacher]
    teacher = statistics.fmean(teachers) if teachers else None
    reasons = incompatibilities(cell.spec, table, cell.rows, cell.unfinished, teacher, cell.teacher_reported)
    cell = replace(cell, teacher_measured=teacher, notes=(*cell.notes, *_guessing_teachers(cell.rows)))
    if cell.scale == "mini" and table.reported:
        return replace(cell, verdict=MINI, notes=(*cell.notes, *reasons))
    assert cell.measured is not None
    budget = noise_budget(table.dataset.full, table.task)
    std = cell.reported.std if cell.reported else None
    if cell.reported_value is not None:
        reasons += selection_differences(cell.selection, _reported_selection(table, cell.reported))
    return replace(cell, verdict=make_verdict(cell.measured, cell.reported_value, budget, std, reasons))


def _guessing_teachers(rows: Sequence[Row]) -> list[str]:
    """What to say of the teachers of rows that are no better than guessing."""
    said = (
        tasks.get(row.run.task).guesses(f"the teacher {row.teacher.network}", row.teacher.measured, row.run.data)
        for row in rows
        if row.teacher
    )
    return list(dict.fromkeys(filter(None, said)))


def _with_equal_cost(cell: Cell, over: Mapping[str, CellSpec], index: RowIndex) -> Cell:
    """The cell with its gains over `none` and plain KD trained for as long as this method takes."""
    run, values, gains = cell.rows[0].run, _by_seed(cell, cell.rows), {}
    teachers = {row.teacher.sha256 for row in cell.rows if row.teacher}
    for name, factor in cell.cost.factors.items() if cell.cost else ():
        recipe = equal_cost_recipe(run.recipe, factor)
        if recipe is None or name not in over:
            continue
        rows = index.under(recipe, over[name], run)
        if teachers:  # the same weights, not only the same training
            rows = [row for row in rows if row.teacher is None or row.teacher.sha256 in teachers]
        current = [row for row in rows if not index.is_stale(row)]
        if stale := len(rows) - len(current):
            note = f"stale: {stale} {_rows(stale)} of {name} trained as long as this method left out"
            cell = replace(cell, notes=(*cell.notes, f"{note}; `kdbench run --equal-cost` does them again"))
        gains[name] = gain(values, _by_seed(cell, current))
    return replace(cell, gain_equal=gains.get("none"), gain_kd_equal=gains.get("kd"))


def _with_plain_gains(cells: list[Cell]) -> list[Cell]:
    """Cells with their plain gains as those at equal cost, where the reference takes as long anyway.

    Only beside cells whose reference was trained longer: without any there is no comparison at equal cost.
    """
    for equal, plain, name in (("gain_equal", "gain", "none"), ("gain_kd_equal", "gain_kd", "kd")):
        if any(getattr(cell, equal) for cell in cells):
            cells = [
                replace(cell, **{equal: getattr(cell, plain)})
                if cell.cost and equal_cost_factor(cell.cost.factors[name]) == 1.0
                else cell
                for cell in cells
            ]
    return cells


def _by_seed(cell: Cell, rows: Sequence[Row]) -> dict[int, float]:
    """What rows measured, by seed; of several of a seed the last one counts."""
    seeds = {row.run.seed: row for row in rows}
    if len(seeds) < len(rows):
        seeds = {row.run.seed: row for row in sorted(rows, key=lambda row: row.finished)}
    return {seed: value for seed, row in seeds.items() if (value := cell.value(row)) is not None}


def _reported_selection(table: Table, reported: Reported | None) -> Selection:
    """The epoch that the paper reports."""
    return reported.selection if reported and reported.selection else table.selection


def _standing_notes(table: Table, spec: CellSpec, selection: Selection | None) -> tuple[str, ...]:
    """Notes that a cell has without rows; `selection` is the epoch that is compared, None where none is."""
    notes = [spec.entry.note]
    if selection not in (None, table.selection):
        notes.append(f"compared at the {selection} epoch, as this number is reported; the table's is {table.selection}")
    return tuple(note for note in notes if note)


def _chosen(matching: Sequence[list[Row]], spec: CellSpec, context: _Context) -> tuple[list[Row], int]:
    """The rows of the group that counts, one a seed in order, and how many rows were left out."""
    groups, table = [rows for alike in matching for rows in _by_teacher(alike)], context.table
    longer = longer_recipes(spec, groups, context.specs, context.index)

    def rank(rows: list[Row]) -> tuple[bool, int, str]:
        """Not trained for another's cost first, nearest to the table's recipe and data, then the most recent."""
        differences = [*recipe_differences(rows[0], spec.recipe, table), *data_differences(rows[0], table)]
        return rows[0].run.recipe not in longer, -len(differences), max(row.finished for row in rows)

    taken = max(groups, key=rank)
    seeds = {row.run.seed: row for row in sorted(taken, key=lambda row: row.finished)}
    wanted = taken[0].run.recipe
    others = {row.run.id for rows in groups for row in rows if rows is taken or not is_longer(row.run.recipe, wanted)}
    return [seeds[seed] for seed in sorted(seeds)], len(others) - len(seeds)


def _by_teacher(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in groups of one teacher."""
    groups: dict[tuple[str, str | None], list[Row]] = defaultdict(list)
    for row in rows:
        teacher = row.run.teacher
        groups[teacher.id if teacher else "", row.run.teacher_file].append(row)
    return list(groups.values())


def _rows_of(reference: CellSpec, spec: CellSpec, counted: Row, index: RowIndex) -> list[Row]:
    """A reference's rows under the conditions of the counted row, or under its own recipe where it has another."""
    recipe = reference.recipe if reference.recipe != spec.recipe else counted.run.recipe
    return index.under(recipe, reference, counted.run)


def _failure(rows: Sequence[Row]) -> Verdict:
    """The verdict of a cell none of whose runs left a number: the latest one's status and reason."""
    last = max(rows, key=lambda row: row.finished)
    more = f" ({len(rows)} seeds without a number)" if len(rows) > 1 else ""
    if last.status == "done":
        return Verdict("failed", f"its row lacks the metric{more}")
    return Verdict(last.status, f"{one_line(last.reason)}{more}")


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"
