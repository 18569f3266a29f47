"""What was measured, beside what the last saved run of the same machine says of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from kdbench.records.row import Environment

Measured = dict[str, Any]
"""A benchmark as pytest-benchmark saves it, with `seconds` and `figures` in its `extra_info`."""


def saved(folder: Path) -> list[dict[str, Measured]]:
    """What every saved run of a machine measured, by full name; the latest comes last."""
    runs = [json.loads(file.read_text()) for file in sorted(folder.glob("*/[0-9]*.json"), key=lambda file: file.name)]
    return [{one["fullname"]: one for one in run["benchmarks"]} for run in runs]


def lines(now: dict[str, Measured], before: Sequence[dict[str, Measured]], machine: Environment) -> list[str]:
    """A table of medians and figures; each is set beside the last saved run that has it."""
    if not now:
        return []
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("benchmark", "figure", "now", "quartiles", "before", "now / before"):
        grid.add_column(name, justify="left" if name in ("benchmark", "figure") else "right", no_wrap=True)
    for name, one in now.items():
        other = next((run[name] for run in reversed(before) if name in run), None)
        for cells in _records(one, other):
            grid.add_row(*map(Text, cells))
    console = Console(file=io.StringIO(), width=180, highlight=False)
    console.print(grid)
    versions = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    head = f"{machine.machine}, {machine.threads} threads, commit {machine.commit}, {versions}"
    assert isinstance(console.file, io.StringIO)
    return ["", head, "", *console.file.getvalue().splitlines()]


def _records(now: Measured, before: Measured | None) -> Iterator[tuple[str, ...]]:
    """A line for the median time, and one for each figure."""
    stats = now["stats"]
    old = before["stats"]["median"] if before else None
    spread = f"{seconds(stats['q1'])} to {seconds(stats['q3'])}"
    yield (
        now["name"].removeprefix("test_"),
        "median",
        seconds(stats["median"]),
        spread,
        *_change(stats["median"], old, seconds),
    )
    earlier = before["extra_info"].get("figures", {}) if before else {}
    for name, one in now["extra_info"].get("figures", {}).items():
        old = earlier[name]["median"] if name in earlier else None
        yield (
            "",
            name,
            number(one["median"]),
            f"{number(one['low'])} to {number(one['high'])}",
            *_change(one["median"], old, number),
        )


def _change(now: float, before: float | None, shown: Any) -> tuple[str, str]:
    return ("-", "-") if before is None else (shown(before), f"{now / before:.2f}")


def seconds(value: float) -> str:
    """In ms below a second."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
