"""Verdicts: whether a measured mean agrees with the reported number, from numbers alone.

tolerance = sqrt((t_{0.975, n-1} s / sqrt(n))^2 + (1.96 s_r)^2), with n seeds, their sample sd s, and s_r the reported
sd or, where none is reported, the data set's noise budget. One seed has no sd and t has no quantile for n = 1: then s
is the noise budget and the factor 1.96, as if the spread were known.

Where measured and reported have the same true mean, a cell is called different in 5 % of cases for n = 1 and for many
seeds (where s_r is right), and less often in between: about 1 % for n = 2, 2.5 % for n = 3, 4 % for n = 5.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from .. import tasks
from ..records.row import Status

Word = (
    Literal[
        "reproduced",
        "above",
        "below",
        "measured",  # no number is reported
        "not comparable",
        "not run",
    ]
    | Status
)

NORMAL = 1.96

NOISE_BUDGET = {"cifar100": 0.25, "imagenet": 0.11, "coco": 0.2, "cityscapes": 0.5}
"""Seed-to-seed sd of the headline metric by data set, in percent, assumed where none is reported."""


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
    """A word with its reason and, where reported and measured are compared, their difference and the tolerance."""

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
    return NOISE_BUDGET[dataset] if dataset in NOISE_BUDGET else tasks.get(task).noise_budget


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
    """The largest difference of measured and reported at which they are called the same, percent."""
    sampling = factor(measured.n) * (budget if measured.sd is None else measured.sd) / math.sqrt(measured.n)
    return math.hypot(sampling, NORMAL * (budget if reported_std is None else reported_std))


def make_verdict(
    measured: Sample,
    reported: float | None,
    budget: float,
    reported_std: float | None = None,
    incompatibilities: Sequence[str] = (),
) -> Verdict:
    """The verdict of `measured` against `reported`, both in percent; with any incompatibility, `not comparable`."""
    if reported is None:
        return Verdict("measured", "; ".join(["no reported number", *incompatibilities]))
    if incompatibilities:
        return Verdict("not comparable", "; ".join(incompatibilities))
    allowed = tolerance(measured, budget, reported_std)
    difference = measured.mean - reported
    if abs(difference) <= allowed:
        return Verdict("reproduced", "", allowed, difference)
    return Verdict("above" if difference > 0 else "below", "", allowed, difference)


def teacher_differs(measured: float, reported: float, budget: float) -> bool:
    """Whether a re-measured teacher differs from the reported one by more than 1.96 noise budgets."""
    return abs(measured - reported) > NORMAL * budget
