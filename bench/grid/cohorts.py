"""Cohorts: runs that train on one data stream and one teacher forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

from ..spec.run import Run
from ..spec.schema import Spec


def cohorts(runs: Iterable[Run], size: int) -> tuple[tuple[Run, ...], ...]:
    """Runs that share data, recipe, seed and teacher, in groups of at most `size`.

    A run without a teacher joins a cohort of the same student where there is one, and so costs no data stream.
    Other networks stay apart: all that they could share is the data, and they can run at the same time.
    """
    runs = list(runs)
    teachers: dict[tuple[str, str, int, str], str] = {}
    texts: dict[int, str] = {}  # by the object: the runs of a cell share theirs, and there may be thousands

    def text(spec: Spec) -> str:
        return texts.get(id(spec)) or texts.setdefault(id(spec), spec.model_dump_json())

    def conditions(run: Run) -> tuple[str, str, int]:
        return text(run.data), text(run.recipe), run.seed

    for run in runs:
        if run.teacher:
            teachers.setdefault((*conditions(run), run.student), _teacher_key(run))

    def key(run: Run) -> tuple[str, str, int, str]:
        shared = conditions(run)
        return *shared, _teacher_key(run) or teachers.get((*shared, run.student), run.student)

    groups = [sorted(group, key=lambda run: run.method) for _, group in groupby(sorted(runs, key=key), key)]
    return tuple(part for group in groups for part in divided(group, -(-len(group) // size)))


def divided(group: Sequence[Run], parts: int) -> list[tuple[Run, ...]]:
    """Parts of nearly equal size, so that no part is much longer than the others."""
    ends = [len(group) * i // parts for i in range(parts + 1)]
    return [tuple(group[start:end]) for start, end in pairwise(ends)]


def _teacher_key(run: Run) -> str:
    return (run.teacher_file or "") + run.teacher.id if run.teacher else ""
