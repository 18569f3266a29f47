"""Sides of a comparison, run in turn many times, and what their times say."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

Work = Callable[[], object]
Round = dict[str, float]
"""Seconds that each side took in one round."""


def in_turn(benchmark: BenchmarkFixture, rounds: int, sides: Mapping[str, Work], warmup: int = 1) -> list[Round]:
    """Every side once a round, in the same order; the times of the first are what the benchmark itself records.

    Args:
        benchmark: pytest-benchmark's; it can be used once.
        rounds: how many are timed.
        sides: at least one.
        warmup: how many rounds come before.
    """
    (first, own), *rest = sides.items()
    others: list[Round] = []

    def run_others() -> None:
        others.append({name: timed(work) for name, work in rest})

    plugin: Any = benchmark
    plugin.pedantic(own, setup=run_others, rounds=rounds, warmup_rounds=warmup)
    times = [{first: seconds, **other} for seconds, other in zip(plugin.stats.stats.data, others[warmup:], strict=True)]
    medians = {name: statistics.median(one[name] for one in times) for name in sides}
    benchmark.extra_info["seconds"] = medians
    return times


def timed(work: Work) -> float:
    """Seconds that `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def record(benchmark: BenchmarkFixture, name: str, values: Sequence[float]) -> None:
    """Keep a figure's median and quartiles over rounds beside the benchmark's own times."""
    low, _, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else [*values] * 3
    spread = {"median": statistics.median(values), "low": low, "high": high, "rounds": len(values)}
    benchmark.extra_info.setdefault("figures", {})[name] = spread
