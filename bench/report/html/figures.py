"""Data of the page of figures: gains and what they cost, by table and pair."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ... import tasks
from ...spec.scale import Scale
from ...spec.schema import digest
from ...text import counted, printable
from ..gains import pareto_front
from ..verdicts import Sample
from .lines import Line

MOST = 40
"""Methods of a pair that are drawn, at most."""


@dataclass(frozen=True)
class Group:
    """The lines of a table at one scale, by pair."""

    table: str
    scale: Scale
    pairs: dict[str, list[Line]]

    @property
    def id(self) -> str:
        return digest([self.table, self.scale])

    @property
    def title(self) -> str:
        return f"{self.table}, {self.scale} scale"

    @property
    def lines(self) -> Iterator[Line]:
        for lines in self.pairs.values():
            yield from lines

    @property
    def numbers(self) -> int:
        return sum(line.reported is not None for line in self.lines)

    @property
    def runs(self) -> int:
        return sum(len(line.cell.rows) for line in self.lines if line.cell)


def groups(lines: Iterable[Line]) -> list[Group]:
    """The lines of every table with a cell, by table and scale: those of most runs, then of most numbers, first."""
    found: dict[tuple[str, str], Group] = {}
    for line in lines:
        if line.table and line.cell is not None:
            group = found.setdefault((line.table, line.scale), Group(line.table, line.scale, {}))
            group.pairs.setdefault(_pair(line), []).append(line)
    return sorted(found.values(), key=lambda group: (-group.runs, -group.numbers, group.table, group.scale))


def _pair(line: Line) -> str:
    """The pair, with what tells it from others of the same networks."""
    _, _, variant = line.dataset.partition(" ")
    arrow = f"{line.teacher} → {line.student}" if line.teacher else line.student
    return ", ".join(filter(None, (arrow, line.strategy, variant)))


def content(group: Group) -> dict[str, Any]:
    """A group's pairs with their methods, all JSON; the pairs of most runs first."""
    first = next(group.lines)
    pairs = [_of_pair(name, lines) for name, lines in group.pairs.items()]
    return {
        "table": group.table,
        "title": group.title,
        "metric": tasks.metric(first.task, first.metric).title,
        "pairs": sorted(pairs, key=lambda pair: (-pair["runs"], not pair["methods"])),
    }


def _of_pair(name: str, lines: Sequence[Line]) -> dict[str, Any]:
    """Title, origin of the numbers, and one record a method with a gain or a cost."""
    references = _references(lines)
    methods = [record for line in lines if (record := _method(line, references))]
    for axis, cost in enumerate(("time", "step")):
        priced = [each for each in methods if each[cost] is not None and each["gain"] is not None]
        front = pareto_front([(each[cost], each["gain"][0]) for each in priced])
        for each, best in zip(priced, front, strict=True):
            each["front"][axis] = best
    methods.sort(key=_order)
    shown = _shown(methods)
    return {
        "title": printable(name),
        "runs": sum(len(line.cell.rows) for line in lines if line.cell),
        "origin": _origin(lines),
        "papers": ", ".join(dict.fromkeys(line.reported.paper for line in lines if line.reported)),
        "more": len(methods) - len(shown),
        "on_front": [sum(each["front"][axis] for each in methods) for axis in (0, 1)],
        "methods": shown,
    }


def _shown(methods: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The methods of the greatest gains, the student alone, and both Pareto fronts, or as many evenly spread of one."""
    if len(methods) <= MOST:
        return list(methods)
    kept = {id(each) for each in (*methods[:MOST], *(each for each in methods if each["base"]))}
    for axis in (0, 1):
        front = [each for each in methods if each["front"][axis]]
        kept |= {id(each) for each in front[:: math.ceil(len(front) / MOST)]}
    return [each for each in methods if id(each) in kept]


def _order(method: dict[str, Any]) -> tuple[bool, float]:
    """The greatest gain first; a reported one where none is measured."""
    gain = method["gain"] or method["reported"] or [0.0]
    return method["gain"] is None, -gain[0]


def _method(line: Line, references: Mapping[tuple[str, str], float]) -> dict[str, Any] | None:
    """One method's gains over `none` and over `kd`, as measured and as reported, and its cost; None without any."""
    cell = line.cell
    assert cell is not None
    alone = cell.entry.method == "none"
    gain = Sample(0.0, None, cell.measured.n) if alone and cell.measured else cell.gain
    reported, reported_kd = (_reported_gain(line, name, references) for name in ("none", "kd"))
    cost = cell.cost
    if gain is None and reported is None and reported_kd is None:
        return None
    return {
        "id": line.id,
        "name": printable(line.method),
        "base": alone,
        "gain": _gain(gain),
        "gain_kd": _gain(cell.gain_kd),
        "reported": reported,
        "reported_kd": reported_kd,
        "time": None if cost is None or cost.factor is None else _short(cost.factor),
        "step": None if cost is None else _short(1e3 * cost.step_seconds),
        "front": [False, False],
    }


def _references(lines: Sequence[Line]) -> dict[tuple[str, str], float]:
    """The numbers that papers report of a pair's student alone and of its plain KD, by paper and method; the first."""
    found: dict[tuple[str, str], float] = {}
    for line in lines:
        number = line.reported
        if line.cell and line.cell.entry.method in ("none", "kd") and number and number.value is not None:
            found.setdefault((number.paper, line.cell.entry.method), number.value)
    return found


def _reported_gain(line: Line, reference: str, references: Mapping[tuple[str, str], float]) -> list[float] | None:
    """The reported number minus that of a reference, as the same paper reports it."""
    number = line.reported
    if number is None or number.value is None or line.cell is None or line.cell.entry.method in ("none", reference):
        return None
    alone = number.student_value if reference == "none" else None
    value = references.get((number.paper, reference)) if alone is None else alone
    return None if value is None else [_short(number.value - value)]


def _gain(sample: Sample | None) -> list[float | None] | None:
    return None if sample is None else _numbers(sample.mean, sample.half_width, sample.n)


def _numbers(*values: float | None) -> list[float | None]:
    return [None if value is None else _short(value) for value in values]


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _origin(lines: Sequence[Line]) -> str:
    """What rows the numbers of a pair are of: how many, their seeds, commits and machines."""
    rows = [row for line in lines if line.cell for row in line.cell.rows]
    if not rows:
        return ""
    seeds = sorted({row.run.seed for row in rows})
    listed = ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{seeds[0]} to {seeds[-1]} ({len(seeds)})"
    commits = _most([row.environment.commit for row in rows], "commit")
    machines = _most([row.environment.machine for row in rows], "machine")
    return printable(
        f"{counted(len(rows), 'row')}; {'seed' if len(seeds) == 1 else 'seeds'} {listed}; {commits}; {machines}"
    )


def _most(names: Sequence[str], what: str) -> str:
    """`commit 0123456789ab`, or the three that most rows have and how many others there are."""
    counts = Counter(names).most_common()
    listed = ", ".join(name for name, _ in counts[:3])
    more = f" and {len(counts) - 3} more" if len(counts) > 3 else ""
    return f"{what if len(counts) == 1 else what + 's'} {listed}{more}"
