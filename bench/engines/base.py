"""What an engine is given: jobs, each a part of a cohort in one process."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec.run import Run

FINISHED = ("done", "diverged")
"""Statuses of runs that are not tried again."""


@dataclass(frozen=True)
class PlannedJob:
    """Runs of one cohort that one process trains.

    Attributes:
        runs: unfinished ones.
        cohort: number of the cohort in the plan. Jobs of one cohort never run at the same time on a CPU.
        threads: of the process, on a CPU. Rounding depends on it, so the plan decides it and not what is left to do.
    """

    runs: tuple[Run, ...]
    cohort: int
    threads: int
