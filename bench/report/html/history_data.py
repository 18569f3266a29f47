"""A table's results over commits, as the page of figures shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...spec.scale import Scale
from ...spec.schema import digest

STEPS = ("regressed", "improved")
"""Changes that are marked."""

MOST_LINES, MOST_CHANGES = 40, 200
"""Lines of a panel, and changes of the list, at most."""


@dataclass(frozen=True)
class Point:
    """A method at a commit.

    Attributes:
        commit: its place among the commits.
        value: percent, or milliseconds a step; None where a run left no number.
        word: the change since the method's last rows before, as `kdbench compare` names it.
        size: of that change, or why a run left no number; empty without a change.
    """

    commit: int
    value: float | None
    word: str
    size: str


@dataclass(frozen=True)
class Panel:
    """The accuracy or the step time of a pair's methods, under a title of its axis that is at least `span` long."""

    pair: str
    side: Literal["accuracy", "speed"]
    axis: str
    span: float
    lines: Mapping[str, Sequence[Point]]


@dataclass(frozen=True)
class TableHistory:
    """A table at one scale over at least two commits: each with the time of its first row, in that order."""

    table: str
    scale: Scale
    machine: str
    rows: int
    commits: Sequence[tuple[str, str]]
    panels: Sequence[Panel]

    @property
    def id(self) -> str:
        return digest([self.table, self.scale, "history"])

    @property
    def title(self) -> str:
        return f"{self.table}, {self.scale} scale"


@dataclass(frozen=True)
class Change:
    """An entry of the list of changes."""

    finished: str
    commit: str
    title: str
    pair: str
    method: str
    side: str
    word: str
    size: str

    @property
    def of(self) -> str:
        return "step time" if self.side == "speed" else "accuracy"

    @property
    def address(self) -> dict[str, str]:
        """Of its figure, as the part of the page's address after `#`."""
        return {"history": self.title, "panel": f"{self.pair}: {self.of}"}


def changes(histories: Sequence[TableHistory]) -> list[Change]:
    """Every marked change, the latest first; of one commit regressions first."""
    found = [change for history in histories for change in _changes(history)]
    return sorted(found, key=lambda each: (each.finished, each.word == "regressed"), reverse=True)


def _changes(history: TableHistory) -> Iterator[Change]:
    for panel in history.panels:
        for method, points in panel.lines.items():
            for point in points:
                if point.word in STEPS:
                    commit, finished = history.commits[point.commit]
                    at = (finished, commit, history.title, panel.pair, method)
                    yield Change(*at, panel.side, point.word, point.size)


def content(history: TableHistory) -> dict[str, Any]:
    """The history as JSON; of a panel with many methods those with marked changes, and the student alone, first."""
    return {
        "title": history.title,
        "machine": history.machine,
        "rows": history.rows,
        "commits": history.commits,
        "panels": [_panel(panel) for panel in history.panels],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    order = sorted(panel.lines, key=lambda name: (not _has_step(panel.lines[name]), name != "none"))
    shown = [name for name in panel.lines if name in set(order[:MOST_LINES])]
    return {
        "pair": panel.pair,
        "side": panel.side,
        "axis": panel.axis,
        "span": panel.span,
        "more": len(order) - len(shown),
        "lines": [{"name": name, "points": [list(asdict(p).values()) for p in panel.lines[name]]} for name in shown],
    }


def _has_step(points: Sequence[Point]) -> bool:
    return any(point.word in STEPS for point in points)
