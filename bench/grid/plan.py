"""The plan of a grid: every run that tables need, once, as cohorts in the order in which they must be done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from kdbench import methods

from ..spec.request import RunRequest
from ..spec.run import Data, Run
from ..spec.scale import Scale
from ..spec.table import Pair, Table
from .cells import expand_pair, runs_of
from .cohorts import cohorts
from .pairs import skip_reason, substitution

COHORT = 10
"""Students of a cohort: two processes that share a small table then end at about the same time."""


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
    skipped: tuple[Skipped, ...] = ()

    @property
    def runs(self) -> list[Run]:
        return [run for stage in self.stages for cohort in stage for run in cohort]


def make_plan(
    tables: Sequence[Table],
    scale: Scale,
    data: Data,
    request: RunRequest,
    teacher_files: Mapping[str, str] = MappingProxyType({}),
    misfit: Callable[[Run], str] = lambda _run: "",
) -> Plan:
    """Every run that the tables need, teachers first, grouped into cohorts.

    Args:
        tables: of one data set, validated, with the chosen methods.
        scale: "full" or "mini".
        data: the data set, without options.
        request: seeds, recipe changes and the size of cohorts.
        teacher_files: by teacher network, sha256 of a checkpoint used in place of a trained teacher.
        misfit: why a run of an added cell cannot train, empty if it can; such a cell is skipped.

    Raises:
        SpecError, MethodError: a recipe change or an option does not fit, or a batch is larger than the data set.
    """
    students: dict[str, Run] = {}
    skipped: list[Skipped] = []
    for table in tables:
        for pair in table.pairs:
            skipped += _skipped_pairs(table, pair, scale)
            if skip_reason(pair, scale):
                continue
            for cell in expand_pair(table, pair, scale, request.changes):
                reason = cell.skip or methods.class_shortage(cell.entry.method, data.classes)
                given = teacher_files.get(cell.teacher or "")
                runs = [] if reason else runs_of(cell, table, data, seeds_of(table, request), given)
                if cell.added and not reason:
                    reason = misfit(runs[0])
                if reason:
                    skipped.append(Skipped(table.name, f"{_name(pair)} {cell.entry.display_name}", reason))
                else:
                    students |= {run.id: run for run in runs if run.id not in students}
    teachers = {run.teacher.id: run.teacher for run in students.values() if run.teacher and not run.teacher_file}
    distilled = [run for run in students.values() if run.id not in teachers]  # a student may be a teacher elsewhere
    size = cohort_size(request)
    stages = (cohorts(teachers.values(), size), cohorts(distilled, size))
    return Plan(tuple(stage for stage in stages if stage), tuple(skipped))


def seeds_of(table: Table, request: RunRequest) -> tuple[int, ...]:
    """Seed numbers: the request's, else the table's."""
    return request.seeds if request.seeds is not None else table.seeds


def cohort_size(request: RunRequest) -> int:
    """Most students in one cohort."""
    return request.cohort or COHORT


def _skipped_pairs(table: Table, pair: Pair, scale: Scale) -> list[Skipped]:
    if reason := skip_reason(pair, scale):
        return [Skipped(table.name, _name(pair), reason)]
    return [Skipped(table.name, *replaced)] if (replaced := substitution(pair, scale)) else []


def _name(pair: Pair) -> str:
    return f"{pair.teacher} -> {pair.student}"
