"""Changes between two sets of results, BASE and HEAD: a word for each cell, from numbers alone.

Accuracy. Where seeds are shared, the change is the mean difference seed by seed (a paired t test); else it is the
difference of the means (Welch's). A variance estimated from a few seeds is unreliable, so the assumed noise, b, counts
as `PRIOR` further degrees of freedom: variance = (PRIOR b^2 + (n - 1) s^2) / (PRIOR + n - 1), the moderated t of Smyth
(Stat. Appl. Genet. Mol. Biol. 3, 2004). One seed a side is then the same test on b alone. A change counts when its p,
corrected by Holm for all cells, is at most `ALPHA` and it exceeds one noise budget, by which the next seed alone may
change a result. A cell without such a change is `unchanged` if a change of the target size would have been significant
in 80 % of cases (by its uncorrected p), else `unsure`. A change that is significant by itself, but not among that many
cells, is `unsure` too.

False alarms. While the noise is as assumed, at most 5 % of comparisons of unchanged code call any cell improved or
regressed, however many cells there are (simulated: 4 % for one cell, 1 % for a hundred). Noise of 1.5 times that raises
up to 13 %, of twice that up to 50 %, unless it is detected: `compare` uses the noise that rows show wherever they show
it well enough, and then it is 5 % again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..text import counted

Word = Literal["improved", "unchanged", "regressed", "unsure", "not measured"]

WORDS: tuple[Word, ...] = ("regressed", "improved", "unsure", "unchanged", "not measured")

ALPHA = 0.05
POWER = 0.8
PRIOR = 8
"""Degrees of freedom of the noise budget; so few that noise of 1.5 budgets raises few alarms (tests)."""

SLOWER = 1.1
"""Ratio of step times that counts."""

MOST_SEEDS = 200


@dataclass(frozen=True)
class Scores:
    """One cell's headline metric in percent, by seed.

    Attributes:
        budget: the noise budget; a change up to it does not count.
        rerun_sd: assumed sd of one seed's result from one run of unchanged code to the next, on any machine.
        seed_sd: assumed sd from seed to seed.
        target: the change that the seeds must suffice to detect.
        teacher_sd: assumed sd of the part that all students of one training of their teacher share; 0 where BASE's and
            HEAD's have the same teacher, or none.
    """

    base: Mapping[int, float]
    head: Mapping[int, float]
    budget: float
    rerun_sd: float
    seed_sd: float
    target: float
    teacher_sd: float = 0.0

    @property
    def shared(self) -> list[int]:
        """Seeds to compare in pairs: those on both sides, if they are two or all that one side has."""
        both = sorted(self.base.keys() & self.head.keys())
        return both if len(both) >= min(2, len(self.base), len(self.head)) else []

    @property
    def pairs(self) -> list[float]:
        """Differences of the shared seeds, points."""
        return [self.head[seed] - self.base[seed] for seed in self.shared]


@dataclass(frozen=True)
class Change:
    """The change of one quantity of a cell: a word, its reason, and both values.

    Attributes:
        base, head: mean metric in percent, or median seconds a step; None where nothing is compared.
        size: points (head - base), or ratio of seconds (head / base).
        n: seeds or rows compared, of the side with fewer.
    """

    word: Word
    reason: str = ""
    base: float | None = None
    head: float | None = None
    size: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Estimate:
    """Means of the compared seeds of both sides, and the standard error of their difference."""

    base: float
    head: float
    error: float
    freedom: float
    pair_sd: float  # of the difference of one seed of HEAD and one of BASE
    seeds: int  # pairs, or seeds of the side with fewer

    @property
    def difference(self) -> float:
        """Points by which HEAD is better."""
        return self.head - self.base

    @property
    def p(self) -> float:
        """Two-sided p value, not corrected."""
        from scipy.special import stdtr

        return 2 * float(stdtr(self.freedom, -abs(self.difference) / self.error))

    def detects(self, change: float) -> bool:
        """Whether a change of that size has a p of at most `ALPHA` in 80 % of cases."""
        return _power(change / self.error, self.freedom) >= POWER


def classify(cells: Sequence[Scores]) -> list[Change]:
    """The change of each cell's metric, corrected for the number of cells.

    At most 5 % of comparisons of unchanged code call any cell improved or regressed while the noise is at most what is
    assumed.
    """
    estimates = [estimate(cell) for cell in cells]
    p = [estimate.p for estimate in estimates]
    return [_change(*fields, len(cells)) for fields in zip(cells, estimates, p, holm(p), strict=True)]


def estimate(cell: Scores) -> Estimate:
    """From the differences of shared seeds where there are any, else from the means of both sides."""
    if shared := cell.shared:
        base, head = ([side[seed] for seed in shared] for side in (cell.base, cell.head))
        variances = [_moderated(cell.pairs, 2 * cell.rerun_sd**2, PRIOR)]
        parts = [(variance / len(base), freedom) for variance, freedom in variances]
    else:
        base, head = list(cell.base.values()), list(cell.head.values())
        variances = [_moderated(side, cell.seed_sd**2, PRIOR / 2) for side in (base, head)]
        parts = [
            (variance / len(side), freedom) for (variance, freedom), side in zip(variances, (base, head), strict=True)
        ]
    error, freedom = _sum_of_variances([*parts, (2 * cell.teacher_sd**2, PRIOR)])
    pair_sd = math.sqrt(sum(variance for variance, _ in variances))
    return Estimate(statistics.fmean(base), statistics.fmean(head), error, freedom, pair_sd, min(len(base), len(head)))


def speed(base: Sequence[float], head: Sequence[float]) -> Change:
    """The change of the median seconds a step on one machine: beyond `SLOWER`, and significant by a rank test.

    Chance alone is called a change in at most 5 % of cells (not corrected for their number: ranks of a few rows could
    never pass that). Rows of one session share the machine's load, which no test detects; `make bench` interleaves.
    """
    before, after = statistics.median(base), statistics.median(head)
    ratio = after / before
    change = before, after, ratio, min(len(base), len(head))
    beyond = not 1 / SLOWER <= ratio <= SLOWER
    if 2 / math.comb(len(base) + len(head), len(base)) > ALPHA:  # the smallest p that ranks can have
        reason = f"too few rows for a rank test: {len(base)} and {len(head)}, 4 and 4 would suffice"
        return Change("unsure" if beyond else "not measured", reason, *change)
    from scipy.stats import mannwhitneyu

    p = float(mannwhitneyu(base, head).pvalue)
    if beyond and p > ALPHA:
        return Change("unsure", f"rows overlap (p {p:.2f})", *change)
    word: Word = "unchanged" if not beyond else "regressed" if ratio > 1 else "improved"
    return Change(word, "", *change)


def exit_code(words: Iterable[Word]) -> int:
    """1 for any regression; else 2 where anything is unsure or nothing was measured; else 0."""
    distinct = set(words)
    if "regressed" in distinct:
        return 1
    return 2 if "unsure" in distinct or distinct <= {"not measured"} else 0


def pooled(samples: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Sample sd within samples, pooled over them, and its degrees of freedom; (0, 0) where none has two values."""
    parts = [(len(sample) - 1, statistics.variance(sample)) for sample in samples if len(sample) > 1]
    freedom = sum(n for n, _ in parts)
    return (math.sqrt(sum(n * variance for n, variance in parts) / freedom), freedom) if parts else (0.0, 0)


def holm(p: Sequence[float]) -> list[float]:
    """Each p corrected for their number (Holm, Scand. J. Statist. 6, 1979)."""
    corrected, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = least
    return corrected


def seeds_needed(pair_sd: float, target: float, teacher_sd: float = 0.0) -> int | None:
    """Smallest number of shared seeds that detects a change in 80 % of cases; None for more than `MOST_SEEDS`.

    Args:
        pair_sd: of the difference of two runs of one seed, points.
        target: the change, points.
        teacher_sd: as in `Scores`; more seeds do not reduce it.
    """
    for n in range(1, MOST_SEEDS + 1):
        error, freedom = _sum_of_variances([(pair_sd**2 / n, PRIOR + n - 1), (2 * teacher_sd**2, PRIOR)])
        if _power(target / error, freedom) >= POWER:
            return n
    return None


def _change(cell: Scores, estimated: Estimate, p: float, corrected: float, cells: int) -> Change:
    """The change of one cell, given its p value and that corrected for the number of cells."""
    values = estimated.base, estimated.head, estimated.difference, estimated.seeds
    if abs(estimated.difference) > cell.budget and corrected <= ALPHA:
        return Change("improved" if estimated.difference > 0 else "regressed", "", *values)
    if abs(estimated.difference) > cell.budget and p <= ALPHA:
        return Change("unsure", f"p {p:.2g} alone, {corrected:.2g} among {counted(cells, 'cell')}", *values)
    if estimated.detects(cell.target):
        return Change("unchanged", "", *values)
    seeds = counted(estimated.seeds, "seed is", "seeds are")
    few = f"{seeds} too few to detect {cell.target:.2g} points"
    needed = seeds_needed(estimated.pair_sd, cell.target, cell.teacher_sd)
    if needed is None and cell.teacher_sd:
        return Change("unsure", f"{few}, and no number suffices: each side trained its own teacher", *values)
    return Change("unsure", f"{few}, {needed or f'more than {MOST_SEEDS}'} would suffice", *values)


def _sum_of_variances(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Root of a sum of variances and its degrees of freedom, given those of each (Welch and Satterthwaite)."""
    total = sum(variance for variance, _ in parts)
    return math.sqrt(total), total**2 / sum(variance**2 / freedom for variance, freedom in parts)


def _moderated(values: Sequence[float], assumed: float, prior: float) -> tuple[float, float]:
    """Variance of the values, with an `assumed` one of `prior` degrees of freedom; and its degrees of freedom."""
    freedom = prior + len(values) - 1
    mean = statistics.fmean(values)
    squares = sum((value - mean) ** 2 for value in values)
    return (prior * assumed + squares) / freedom, freedom


def _power(shift: float, freedom: float) -> float:
    """Probability that t exceeds its upper 2.5 % point, where the true value is `shift` standard errors above 0."""
    from scipy.special import nctdtr, stdtrit

    return 1 - float(nctdtr(freedom, shift, stdtrit(freedom, 1 - ALPHA / 2)))
