"""The lines at the end of `make bench`: what was measured beside what was saved before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.perf import summary
from tests.perf.synthetic import MACHINE


def measured(median: float, **figures: float) -> dict[str, Any]:
    """A benchmark as pytest-benchmark describes it."""
    spread = {name: {"median": value, "low": 0.9 * value, "high": 1.1 * value} for name, value in figures.items()}
    stats = {"median": median, "q1": median - 0.01, "q3": median + 0.01}
    return {"name": "test_step[kd]", "fullname": "kd", "stats": stats, "extra_info": {"figures": spread}}


def cells(now: dict[str, Any], *before: dict[str, Any]) -> list[list[str]]:
    lines = summary.lines({"kd": now}, before, MACHINE)
    assert "one, 2 threads, commit 000000000000" in lines[1]
    return [[part for part in line.split("  ") if part.strip()] for line in lines[5:]]


def test_a_median_and_a_figure_stand_beside_the_last_saved_run_that_has_them() -> None:
    runs = {"kd": measured(0.1, ratio=2.0)}, {"kd": measured(0.2, ratio=1.6)}, {"dist": measured(9.0)}
    median, figure = cells(measured(0.1, ratio=2.4), *runs)
    assert [part.strip() for part in median] == [
        "step[kd]",
        "median",
        "100 ms",
        "90 ms to 110 ms",
        "200 ms",
        "0.50",
    ]
    assert [part.strip() for part in figure] == ["ratio", "2.4", "2.16 to 2.64", "1.6", "1.50"]


def test_what_was_never_saved_stands_alone() -> None:
    median, figure = cells(measured(2.0, new=123.4), {"kd": measured(1.0)})
    assert [part.strip() for part in median][-2:] == ["1.00 s", "2.00"]
    assert [part.strip() for part in figure] == ["new", "123", "111 to 136", "-", "-"]


def test_nothing_measured_prints_nothing() -> None:
    assert summary.lines({}, [{"kd": measured(1.0)}], MACHINE) == []


def test_saved_runs_are_read_in_their_order(tmp_path: Path) -> None:
    for number, median in ((2, 0.2), (10, 0.1), (1, 0.3)):
        file = tmp_path / "Linux" / f"{number:04d}_commit.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"benchmarks": [measured(median)]}))
    assert [run["kd"]["stats"]["median"] for run in summary.saved(tmp_path)] == [0.3, 0.2, 0.1]
    assert summary.saved(tmp_path / "nowhere") == []
