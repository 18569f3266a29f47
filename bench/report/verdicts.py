"""Reported against measured: one word a cell, from numbers alone.

tolerance = sqrt((t_{0.975, n-1} s / sqrt(n))^2 + (1.96 s_r)^2), with n seeds, their sample sd s, and s_r the printed
sd or, where none is printed, the data set's noise budget. One seed has no sd and t has no quantile for n = 1: then s
is the noise budget and the factor 1.96, as if the spread were known.

When measured and reported share one truth, a cell is called different in 5 % of cases for n = 1 and for many seeds
(where s_r is right), and less often in between: about 1 % for n = 2, 2.5 % for n = 3, 4 % for n = 5.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

Word = Literal[
    "reproduced",
    "above",
    "below",
    "measured",  # there is no reported number to set it against
    "not comparable",
    "not run",
    "skipped",
    "failed",
    "diverged",
    "timeout",
    "out-of-memory",
]

NORMAL = 1.96

NOISE_BUDGET = {"cifar100": 0.25, "imagenet": 0.11, "coco": 0.2, "cityscapes": 0.5}
"""Seed-to-seed sd of the headline metric, in percent, assumed where it is not printed."""

TASK_BUDGET = {"classification": 0.25, "detection": 0.2, "segmentation": 0.5}
"""The same for data sets of a task that have no budget of their own."""


@dataclass(frozen=True)
class Sample:
    """Mean and sample sd of `n` numbers; a single number has no sd."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample | None:
        """None for no values."""
        if not values:
            return None
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), sd, len(values))

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval of the mean; None for a single number."""
        return None if self.sd is None else factor(self.n) * self.sd / math.sqrt(self.n)


@dataclass(frozen=True)
class Verdict:
    """One word, why, and, where reported and measured were set against each other, by how much they may differ."""

    word: Word
    reason: str = ""
    tolerance: float | None = None
    difference: float | None = None  # measured - reported

    @property
    def text(self) -> str:
        return f"{self.word} ({self.reason})" if self.reason else self.word


MINI = Verdict("not comparable", "mini")


def noise_budget(dataset: str, task: str) -> float:
    """Assumed sd of the headline metric from one seed to the next, percent."""
    return NOISE_BUDGET.get(dataset, TASK_BUDGET[task])


@cache
def factor(n: int) -> float:
    """Two-sided 95 % factor for the mean of `n` values: Student's t for an estimated sd; 1.96 for n = 1."""
    if n < 1:
        raise ValueError(f"a mean needs at least one value, not {n}")
    if n == 1:
        return NORMAL
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975))


def tolerance(measured: Sample, budget: float, reported_std: float | None = None) -> float:
    """How far measured and reported may lie apart before they are called different, percent."""
    own = factor(measured.n) * (budget if measured.sd is None else measured.sd) / math.sqrt(measured.n)
    return math.hypot(own, NORMAL * (budget if reported_std is None else reported_std))


def judge(
    measured: Sample,
    reported: float | None,
    budget: float,
    reported_std: float | None = None,
    obstacles: Sequence[str] = (),
) -> Verdict:
    """`measured` against `reported`, both in percent; any obstacle makes them not comparable."""
    if reported is None:
        return Verdict("measured", "; ".join(["no reported number", *obstacles]))
    if obstacles:
        return Verdict("not comparable", "; ".join(obstacles))
    allowed = tolerance(measured, budget, reported_std)
    difference = measured.mean - reported
    if abs(difference) <= allowed:
        return Verdict("reproduced", "", allowed, difference)
    return Verdict("above" if difference > 0 else "below", "", allowed, difference)


def teacher_differs(measured: float, reported: float, budget: float) -> bool:
    """Whether a re-measured teacher is not the paper's: further off than 1.96 noise budgets."""
    return abs(measured - reported) > NORMAL * budget
