"""Two sets of results compared cell by cell, BASE against HEAD: one word each, from numbers alone.

Accuracy. Where seeds are shared, the change is the mean difference seed by seed (a paired t test); else it is the
difference of the means (Welch's). A spread seen in a handful of seeds is worth little, so the noise that is assumed, b,
counts as `PRIOR` further degrees of freedom: variance = (PRIOR b^2 + (n - 1) s^2) / (PRIOR + n - 1), the moderated t of
Smyth (Stat. Appl. Genet. Mol. Biol. 3, 2004). One seed a side is then the same test on b alone. A change counts when
its p, corrected by Holm for all cells, is at most `ALPHA` and it exceeds one noise budget: less than the next seed does
to a number matters to nobody. A cell without such a change is `unchanged` if a change of the size that is sought would
have stood out in 80 % of cases (by its own p), else `unsure`; so is a change that stands out by itself, but not among
that many cells.

False alarms. While the noise is what is assumed, at most 5 % of comparisons of unchanged code call any cell improved or
regressed, however many cells there are (simulated: 4 % for one cell, 1 % for a hundred). Noise of 1.5 times that raises
up to 13 %, of twice that up to 50 %, unless it is seen: `comparison` reckons with the noise that rows show wherever
they show it well enough, and then it is 5 % again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Word = Literal["improved", "unchanged", "regressed", "unsure", "not measured"]

WORDS: tuple[Word, ...] = ("regressed", "improved", "unsure", "unchanged", "not measured")

ALPHA = 0.05
POWER = 0.8
PRIOR = 8
"""Degrees of freedom that the noise budget is worth; so few that noise of 1.5 budgets raises few alarms (tests)."""

SLOWER = 1.1
"""Ratio of step times that counts."""

MOST_SEEDS = 200


@dataclass(frozen=True)
class Scores:
    """One cell's headline metric in percent, by seed.

    Attributes:
        budget: the noise budget; a change up to it does not count.
        again: sd that is assumed of one seed's number from one run of unchanged code to the next, on any machine.
        spread: sd that is assumed from seed to seed.
        sought: the change that the seeds must suffice to see.
        teacher: sd that is assumed of what all students of one training of their teacher share; 0 where BASE's and
            HEAD's learnt from the very same, or from none.
    """

    base: Mapping[int, float]
    head: Mapping[int, float]
    budget: float
    again: float
    spread: float
    sought: float
    teacher: float = 0.0

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
    """One word, why, and from what to what.

    Attributes:
        base, head: mean metric in percent, or median seconds a step; None where nothing was compared.
        size: points (head - base), or ratio of seconds (head / base).
        n: seeds or rows that this rests on, of the side with fewer.
    """

    word: Word
    reason: str = ""
    base: float | None = None
    head: float | None = None
    size: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Estimate:
    """Means of the seeds that count on both sides, the standard error of their difference, and what it rests on."""

    base: float
    head: float
    error: float
    freedom: float
    spread: float  # sd of the difference of one seed of HEAD and one of BASE
    seeds: int  # pairs, or those of the side with fewer

    @property
    def difference(self) -> float:
        """Points by which HEAD is better."""
        return self.head - self.base

    @property
    def p(self) -> float:
        """Two-sided."""
        from scipy.special import stdtr

        return 2 * float(stdtr(self.freedom, -abs(self.difference) / self.error))

    def sees(self, change: float) -> bool:
        """Whether such a change gets a p of at most `ALPHA` in 80 % of cases."""
        return _power(change / self.error, self.freedom) >= POWER


def judge(cells: Sequence[Scores]) -> list[Change]:
    """A word for each cell, corrected for their number.

    In comparisons of unchanged code, at most 5 % call any cell at all improved or regressed while the noise is at most
    what is assumed.
    """
    found = [estimate(cell) for cell in cells]
    own = [one.p for one in found]
    return [_judged(*each, len(cells)) for each in zip(cells, found, own, holm(own), strict=True)]


def estimate(cell: Scores) -> Estimate:
    """Paired over the seeds that are shared, else over the means of both sides."""
    if shared := cell.shared:
        base, head = ([side[seed] for seed in shared] for side in (cell.base, cell.head))
        known = [_moderated(cell.pairs, 2 * cell.again**2, PRIOR)]
        parts = [(variance / len(base), freedom) for variance, freedom in known]
    else:
        base, head = list(cell.base.values()), list(cell.head.values())
        known = [_moderated(side, cell.spread**2, PRIOR / 2) for side in (base, head)]
        parts = [(own / len(side), freedom) for (own, freedom), side in zip(known, (base, head), strict=True)]
    error, freedom = _joined([*parts, (2 * cell.teacher**2, PRIOR)])
    spread = math.sqrt(sum(variance for variance, _ in known))
    return Estimate(statistics.fmean(base), statistics.fmean(head), error, freedom, spread, min(len(base), len(head)))


def speed(base: Sequence[float], head: Sequence[float]) -> Change:
    """Seconds a step of one machine: a change of the median beyond `SLOWER`, by a rank test.

    Chance alone is called a change in at most 5 % of cells (not corrected for their number: ranks of a few rows could
    never pass that). Rows of one sitting share the machine's mood, which no test sees; `make bench` interleaves.
    """
    before, after = statistics.median(base), statistics.median(head)
    ratio = after / before
    change = before, after, ratio, min(len(base), len(head))
    beyond = not 1 / SLOWER <= ratio <= SLOWER
    if 2 / math.comb(len(base) + len(head), len(base)) > ALPHA:  # the least p that ranks can give
        reason = f"too few rows for a rank test: {len(base)} and {len(head)}, 4 and 4 would do"
        return Change("unsure" if beyond else "not measured", reason, *change)
    from scipy.stats import mannwhitneyu

    p = float(mannwhitneyu(base, head).pvalue)
    if beyond and p > ALPHA:
        return Change("unsure", f"rows overlap (p {p:.2f})", *change)
    word: Word = "unchanged" if not beyond else "regressed" if ratio > 1 else "improved"
    return Change(word, "", *change)


def exit_code(words: Iterable[Word]) -> int:
    """1 for any regression; else 2 where anything is unsure or nothing was measured; else 0."""
    found = set(words)
    if "regressed" in found:
        return 1
    return 2 if "unsure" in found or found <= {"not measured"} else 0


def pooled(samples: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Sample sd within samples, pooled over them, and its degrees of freedom; (0, 0) where none has two values."""
    parts = [(len(sample) - 1, statistics.variance(sample)) for sample in samples if len(sample) > 1]
    freedom = sum(own for own, _ in parts)
    return (math.sqrt(sum(own * variance for own, variance in parts) / freedom), freedom) if parts else (0.0, 0)


def holm(p: Sequence[float]) -> list[float]:
    """Each p corrected for the number of all (Holm, Scand. J. Statist. 6, 1979)."""
    corrected, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = least
    return corrected


def seeds_needed(spread: float, sought: float, teacher: float = 0.0) -> int | None:
    """Least number of shared seeds that show a change of `sought` in 80 % of cases; None for more than `MOST_SEEDS`.

    `spread` is the sd of a difference of two seeds; `teacher` is that of `Scores`, which more seeds do not lessen.
    """
    for n in range(1, MOST_SEEDS + 1):
        error, freedom = _joined([(spread**2 / n, PRIOR + n - 1), (2 * teacher**2, PRIOR)])
        if _power(sought / error, freedom) >= POWER:
            return n
    return None


def _judged(cell: Scores, one: Estimate, own: float, corrected: float, cells: int) -> Change:
    change = one.base, one.head, one.difference, one.seeds
    if abs(one.difference) > cell.budget and corrected <= ALPHA:
        return Change("improved" if one.difference > 0 else "regressed", "", *change)
    if abs(one.difference) > cell.budget and own <= ALPHA:
        return Change("unsure", f"p {own:.2g} alone, {corrected:.2g} among {cells} cells", *change)
    if one.sees(cell.sought):
        return Change("unchanged", "", *change)
    few = f"{one.seeds} {'seed is' if one.seeds == 1 else 'seeds are'} too few to see {cell.sought:.2g} points"
    needed = seeds_needed(one.spread, cell.sought, cell.teacher)
    if needed is None and cell.teacher:
        return Change("unsure", f"{few}, and no number would do: each side trained its own teacher", *change)
    return Change("unsure", f"{few}, {needed or f'more than {MOST_SEEDS}'} would do", *change)


def _joined(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Root of a sum of variances, each with its degrees of freedom, and the sum's (Welch and Satterthwaite)."""
    variance = sum(own for own, _ in parts)
    return math.sqrt(variance), variance**2 / sum(own**2 / freedom for own, freedom in parts)


def _moderated(values: Sequence[float], assumed: float, worth: float) -> tuple[float, float]:
    """Variance of the values, `assumed` counting as `worth` degrees of freedom of it; and all its degrees."""
    freedom = worth + len(values) - 1
    mean = statistics.fmean(values)
    squares = sum((value - mean) ** 2 for value in values)
    return (worth * assumed + squares) / freedom, freedom


def _power(shift: float, freedom: float) -> float:
    """Chance that t is beyond the upper of its two 5 % points, where the truth is `shift` standard errors above 0."""
    from scipy.special import nctdtr, stdtrit

    return 1 - float(nctdtr(freedom, shift, stdtrit(freedom, 1 - ALPHA / 2)))
