"""From cohorts to jobs: what is finished already, what fits into memory together, and the threads of each job."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..engines.base import PlannedJob
from ..errors import StoreError
from ..grid.plan import Plan
from ..records.row import Row
from ..records.stale import has_old_teacher, is_stale, trained_weights
from ..records.store import InvalidRow, Store
from ..spec.run import Run
from ..tasks.loading import cores
from ..train.claim import FINISHED
from .memory import Memory, Split


@dataclass(frozen=True)
class ScheduledCohort:
    """A cohort of the plan.

    Attributes:
        stage: counted from 0.
        runs: all of them.
        unfinished: those that are still to be done.
        split: the unfinished runs as jobs, and a note on their memory.
    """

    stage: int
    runs: tuple[Run, ...]
    unfinished: tuple[Run, ...]
    split: Split


@dataclass(frozen=True)
class Schedule:
    """A plan as it is printed and executed.

    Attributes:
        runs: of the whole plan.
        cohorts: in order.
        jobs: what is to be done, teachers first.
        finished: rows of finished runs, by id.
        stale: rows of finished runs that are done again, because the code of their method has changed since.
        damaged: files in place of rows, whose runs are done again.
        of_old_teachers: rows of finished runs that are done again, because their teacher was trained again, or is.
    """

    runs: tuple[Run, ...]
    cohorts: tuple[ScheduledCohort, ...]
    jobs: tuple[PlannedJob, ...]
    finished: Mapping[str, Row]
    stale: tuple[Row, ...] = ()
    damaged: tuple[InvalidRow, ...] = ()
    of_old_teachers: tuple[Row, ...] = ()


def make_schedule(
    plan: Plan,
    store: Store,
    memory: Memory,
    threads: Mapping[str, int],
    exact: bool = False,
    keep_stale: bool = False,
) -> Schedule:
    """The jobs of a plan.

    Args:
        plan: of all runs.
        store: where finished runs have their rows.
        memory: what a job has.
        threads: by run, of `threads_of`.
        exact: estimate the memory of every cohort, which takes seconds, and not only where it may be too much.
        keep_stale: finished rows count though the code of their method or their teacher has changed since.

    Raises:
        StoreError: a file in place of a row cannot be read, or is of another version of kdbench.
    """
    finished, damaged = _finished(plan, store)
    stale = () if keep_stale else tuple(row for row in finished.values() if is_stale(row))
    for row in stale:
        del finished[row.run.id]
    retrained = {row.run.id for row in stale}
    weights = _teacher_weights(plan, finished, store)
    of_old_teachers = () if keep_stale else tuple(_of_old_teachers(finished, retrained, weights))
    for row in of_old_teachers:
        del finished[row.run.id]
    cohorts: list[ScheduledCohort] = []
    jobs: list[PlannedJob] = []
    for stage, stage_cohorts in enumerate(plan.stages):
        for runs in stage_cohorts:
            unfinished = tuple(run for run in runs if run.id not in finished)
            split = memory.split(unfinished, exact) if unfinished else Split((), "")
            needs = split.needed or (None,) * len(split.parts)
            jobs += [
                PlannedJob(part, len(cohorts), threads[part[0].id], need)
                for part, need in zip(split.parts, needs, strict=True)
            ]
            cohorts.append(ScheduledCohort(stage, runs, unfinished, split))
    return Schedule(tuple(plan.runs), tuple(cohorts), tuple(jobs), finished, stale, damaged, of_old_teachers)


def _teacher_weights(plan: Plan, finished: Mapping[str, Row], store: Store) -> dict[str, str]:
    """The sha256 of what was trained, by run; also of teachers that are not in the plan, for they are finished."""
    planned = {run.id for run in plan.runs}
    others = {run.teacher.id for run in plan.runs if run.teacher and not run.teacher_file} - planned
    rows = (store.read(teacher) for teacher in others)
    return trained_weights([*finished.values(), *(row for row in rows if isinstance(row, Row))])


def _of_old_teachers(
    finished: Mapping[str, Row], retrained: Collection[str], weights: Mapping[str, str]
) -> Iterator[Row]:
    """The rows whose teacher was trained again since, or is in this plan."""
    for row in finished.values():
        again = row.teacher and row.run.teacher and not row.run.teacher_file and row.run.teacher.id in retrained
        if again or has_old_teacher(row, weights):
            yield row


def threads_of(plan: Plan, slots: Sequence[str], own: int | None = None) -> dict[str, int]:
    """Threads by run: jobs that share the CPU at a time share its cores, for more threads would wait for each other.

    Jobs of a stage do, and those of later stages that wait for no teacher.

    Args:
        plan: of all runs.
        slots: the device of each job that runs at a time.
        own: cores that each job has to itself; None where they share those of this machine.
    """
    if own is not None:
        return dict.fromkeys((run.id for run in plan.runs), own)
    jobs = max(1, list(slots).count("cpu"))
    threads: dict[str, int] = {}
    ready = 0  # cohorts of later stages that wait for no teacher
    for stage in reversed(plan.stages):
        share = max(1, cores() // min(jobs, len(stage) + ready))
        threads |= {run.id: share for cohort in stage for run in cohort}
        ready += sum(not any(run.teacher for run in cohort) for cohort in stage)
    return threads


def _finished(plan: Plan, store: Store) -> tuple[dict[str, Row], tuple[InvalidRow, ...]]:
    """Rows of finished runs, and damaged files."""
    finished: dict[str, Row] = {}
    damaged: list[InvalidRow] = []
    for run in plan.runs:
        row = store.read(run.id)
        if isinstance(row, InvalidRow) and not row.damaged:
            raise StoreError(row.advice)
        if isinstance(row, InvalidRow):
            damaged.append(row)
        elif row is not None and row.status in FINISHED:
            finished[run.id] = row
    return finished, tuple(damaged)
