"""Ranks of methods over teacher-student pairs, with a critical-difference diagram (Demšar, JMLR 2006).

The ranks' difference is tested by Friedman's test, and pairs of methods by Nemenyi's; both are of libraries.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import friedmanchisquare, studentized_range

from ..text import counted
from .blocks import Block
from .figures import SMALL, TITLE, WIDTH

LEAST_PAIRS, LEAST_METHODS = 5, 3
ALPHA = 0.05
EXTRA = "pip install 'kdbench[report]'"

Scores = Mapping[str, Mapping[str, float]]
"""By pair, the score of each method; higher is better."""


@dataclass(frozen=True)
class Ranking:
    """Methods ranked within pairs that have a score of each.

    Attributes:
        ranks: mean rank of each method over pairs, 1 for the best; ties share their mean.
        pairs: how many.
        p_value: of Friedman's test that all methods rank alike.
        pairwise: p-values of Nemenyi's test, by methods.
        left_out: methods without a score in some of these pairs.
    """

    ranks: pd.Series
    pairs: int
    p_value: float
    pairwise: pd.DataFrame
    left_out: tuple[str, ...]

    @property
    def critical_difference(self) -> float:
        """The difference of two mean ranks from which on Nemenyi's test tells their methods apart."""
        count = len(self.ranks)
        quantile = float(studentized_range.ppf(1 - ALPHA, count, math.inf)) / math.sqrt(2)
        return quantile * math.sqrt(count * (count + 1) / (6 * self.pairs))

    @property
    def alike(self) -> list[tuple[int, int]]:
        """First and last place, in the order of ranks, of each largest set of methods that are not told apart."""
        names = list(self.ranks.index)
        sets: list[tuple[int, int]] = []
        for first, name in enumerate(names):
            last = max(k for k in range(first, len(names)) if k == first or self.pairwise.loc[name, names[k]] >= ALPHA)
            if last > first and not (sets and last <= sets[-1][1]):
                sets.append((first, last))
        return sets


def measured_scores(blocks: Sequence[Block]) -> Scores:
    """The measured means of a table's methods, the student alone left out."""
    return {
        block.title: {
            line.label: line.cell.measured.mean
            for line in block.lines
            if line.cell.measured is not None and line.cell.entry.method != "none"
        }
        for block in blocks
    }


def ranking(scores: Scores) -> Ranking | None:
    """The ranking of as many methods over as many pairs as have all their scores; None of fewer than 3 or 5."""
    whole = pd.DataFrame(dict(scores)).T
    complete = _complete(whole)
    if complete is None:
        return None
    ranks = complete.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    result = friedmanchisquare(*(complete[method] for method in complete))
    left_out = tuple(str(method) for method in whole.columns if method not in complete.columns)
    pairwise = _library().posthoc_nemenyi_friedman(complete.reset_index(drop=True))
    return Ranking(ranks, len(complete), float(result.pvalue), pairwise, left_out)


def most_ranked(scores: Scores, most: int) -> tuple[Scores, int]:
    """The scores of the `most` methods that most pairs have, the higher mean first; and how many others there are."""
    by_method: dict[str, list[float]] = defaultdict(list)
    for of_pair in scores.values():
        for method, score in of_pair.items():
            by_method[method].append(score)
    order = sorted(by_method, key=lambda method: (-len(by_method[method]), -statistics.fmean(by_method[method])))
    kept = set(order[:most])
    chosen = {pair: {name: score for name, score in of.items() if name in kept} for pair, of in scores.items()}
    return chosen, len(order) - len(kept)


def ranks_figure(title: str, scores: Scores, quoted: Collection[str] = ()) -> Figure | None:
    """A critical-difference diagram: methods by mean rank, bars over those that Nemenyi's test does not tell apart.

    None where too few methods or pairs have a score. Methods must be at least 3, in at least 5 pairs.
    """
    found = ranking(scores)
    if found is None:
        return None
    figure = Figure(figsize=(WIDTH, 1.5 + 0.24 * ((len(found.ranks) + 1) // 2)), layout="constrained")
    axis = figure.subplots()
    text = {"fontsize": SMALL}
    _library().critical_difference_diagram(
        found.ranks,
        found.pairwise,
        alpha=ALPHA,
        ax=axis,
        label_props=text,
        elbow_props={"linewidth": 1},
        crossbar_props={"color": "#000000", "linewidth": 3},
        text_h_margin=0.02,
    )
    figure.suptitle(textwrap.fill(f"{title}: {words(found, quoted)}", TITLE), fontsize=SMALL + 1, x=0.02, ha="left")
    return figure


def unavailable() -> str:
    """What is missing to rank methods; empty if nothing is."""
    missing = importlib.util.find_spec("scikit_posthocs") is None
    return f"ranks are not drawn: scikit-posthocs is not installed; {EXTRA}" if missing else ""


def _library() -> Any:
    return importlib.import_module("scikit_posthocs")


def _complete(scores: pd.DataFrame) -> pd.DataFrame | None:
    """The methods with most scores over the pairs that have all of theirs: the largest such part."""
    order = scores.notna().sum().sort_values(ascending=False, kind="stable").index
    parts = [scores[list(order[:count])].dropna() for count in range(LEAST_METHODS, len(order) + 1)]
    parts = [part for part in parts if len(part) >= LEAST_PAIRS]
    return max(parts, key=lambda part: part.size, default=None)


def words(found: Ranking, quoted: Collection[str] = ()) -> str:
    """What the tests say, and which methods are left out.

    Args:
        found: the ranking.
        quoted: methods whose numbers are of a table with other teachers or students.
    """
    differ = "differ" if found.p_value < ALPHA else "are not told apart"
    sentences = [
        f"mean ranks over {counted(found.pairs, 'pair')}, 1 is best. Ranks {differ} (Friedman, p = "
        f"{found.p_value:.2g}); a bar joins methods that Nemenyi's test does not tell apart (p >= {ALPHA})"
    ]
    if found.left_out:
        sentences.append(f"Without a score in every pair: {', '.join(found.left_out)}")
    if quoted:
        sentences.append(f"Quoted from a table with other teachers or students: {', '.join(sorted(quoted))}")
    return ". ".join(sentences)
