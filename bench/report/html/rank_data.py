"""Data of the page's figure of ranks: from measured rows of tables and, apart, from reported numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...spec.reported import Reported
from ...text import counted, printable
from .. import ranks
from ..ranks import Ranking, Scores
from ..reported_scores import reported_scores
from .figures import Group

MOST = 30
"""Methods that are ranked, at most: more are no longer told apart, nor read."""


def rankings(groups: Sequence[Group], reported: Mapping[str, Sequence[Reported]]) -> list[dict[str, Any]]:
    """One record for each table and each file of reported numbers that has enough methods and pairs, all JSON.

    None without the library of the tests; `ranks.unavailable` says so.
    """
    if ranks.unavailable():
        return []
    of_rows = [(f"{group.title}", "measured", _measured(group), frozenset[str]()) for group in groups if group.runs]
    of_papers = [
        (f"{file}: {name}", "reported", table.scores, table.quoted)
        for file, tables in reported_scores(reported).items()
        for name, table in tables.items()
    ]
    found = [_record(*each) for each in (*of_rows, *of_papers)]
    return [record for record in found if record is not None]


def _measured(group: Group) -> Scores:
    """The measured means by pair and method, students alone left out."""
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for pair, lines in group.pairs.items():
        for line in lines:
            if line.cell and line.cell.measured is not None and line.cell.entry.method != "none":
                scores[pair][line.method] = line.cell.measured.mean
    return scores


def _record(title: str, kind: str, scores: Scores, quoted: Collection[str]) -> dict[str, Any] | None:
    chosen, more = ranks.most_ranked(scores, MOST)
    found = ranks.ranking(chosen)
    if found is None:
        return None
    return {
        "title": printable(title),
        "kind": kind,
        "names": [printable(str(name)) for name in found.ranks.index],
        "ranks": [round(float(rank), 4) for rank in found.ranks],
        "alike": found.alike,
        "difference": round(found.critical_difference, 4),
        "origin": _origin(kind, found),
        "words": printable(_words(found, more, quoted)),
    }


def _origin(kind: str, found: Ranking) -> str:
    what = "the mean over seeds of what was measured here" if kind == "measured" else "one reported number each"
    return f"{counted(len(found.ranks), 'method')} on {counted(found.pairs, 'pair')}, {what}"


def _words(found: Ranking, more: int, quoted: Collection[str]) -> str:
    """What the tests say, as a sentence, and which methods are left out."""
    text = ranks.words(found, quoted)
    capped = f" {counted(more, 'more method')} with fewer pairs or a lower mean are not ranked." if more else ""
    return f"{text[0].upper()}{text[1:]}.{capped}"
