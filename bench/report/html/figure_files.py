"""The files of the page of figures: one of what can be chosen, and one for each table and each history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ...spec.reported import Reported
from .. import ranks
from . import figures, history_data
from .feed import atom
from .history_data import MOST_CHANGES, TableHistory
from .lines import Line
from .packed import script
from .rank_data import rankings
from .redact import Clean

DATA = Path("data/figures")
INDEX = Path("data/figures.js")
FEED = Path("data/regressions.xml")


def files(
    lines: Sequence[Line],
    histories: Sequence[TableHistory],
    reported: Mapping[str, Sequence[Reported]],
    commands: Mapping[str, str],
    clean: Clean,
) -> Iterator[tuple[Path, str]]:
    """Path and text of each file.

    Args:
        lines: of the page's table.
        histories: of tables.
        reported: numbers that are ranked, by file.
        commands: what trains each table.
        clean: maps what is written.
    """
    groups = figures.groups(lines)
    for group in groups:
        content = figures.content(group) | {"command": commands.get(group.table, f"kdbench run {group.table}")}
        yield DATA / f"{group.id}.js", script("figures.add", group.id, clean(content))
    for history in histories:
        yield DATA / f"{history.id}.js", script("figures.add", history.id, clean(history_data.content(history)))
    changes = history_data.changes(histories)
    latest = {change.title: place for place, change in reversed(list(enumerate(changes)))}
    order = sorted(histories, key=lambda history: latest.get(history.title, len(changes)))
    index = {
        "groups": [{"id": group.id, "title": group.title, "runs": group.runs} for group in groups],
        "most": figures.MOST,
        "ranks": rankings(groups, reported),
        "missing": ranks.unavailable(),
        "histories": [{"id": each.id, "title": each.title} for each in order],
        "changes": [asdict(change) | {"of": change.of} for change in changes[:MOST_CHANGES]],
        "more_changes": max(0, len(changes) - MOST_CHANGES),
    }
    yield INDEX, script("figures.load", clean(index))
    yield FEED, atom(changes, clean)
