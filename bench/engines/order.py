"""The order of a plan's jobs: teachers before their students, and first what most others wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .base import PlannedJob


def next_job(
    waiting: Sequence[PlannedJob],
    running: Sequence[PlannedJob],
    elsewhere: Sequence[PlannedJob],
    slots: Sequence[str],
) -> PlannedJob | None:
    """The next job: of those whose teachers have ended, the one that most runs wait for or belong to.

    On a CPU no two jobs of one cohort run at a time: each has all of the cohort's threads.
    """
    unfinished = {run.id for job in (*waiting, *running, *elsewhere) for run in job.runs}
    students = Counter(run.teacher.id for job in waiting for run in job.runs if run.teacher)
    busy = {job.cohort for job in running} if "cpu" in slots else set()
    ready = [
        job
        for job in waiting
        if job.cohort not in busy and not any(run.teacher and run.teacher.id in unfinished for run in job.runs)
    ]
    return max(ready, key=lambda job: sum(1 + students[run.id] for run in job.runs), default=None)
