"""Numbers as words: how tables and plots write a measurement, a reported value, a gain and a cost."""

from __future__ import annotations

from .blocks import Block, Line
from .cells import Cell
from .verdicts import Sample

BLANK = "-"

METRICS = {"ap": "AP", "top1": "top-1 accuracy", "miou": "mIoU"}

DIGITS = {"ap": 1, "top1": 2, "miou": 2}
"""Decimals that papers print."""


def metric_name(metric: str) -> str:
    return METRICS.get(metric, metric)


def number(value: float | None, digits: int = 2) -> str:
    return BLANK if value is None else f"{value:.{digits}f}"


def sample(measured: Sample | None, *, signed: bool = False) -> str:
    """`40.15 ± 0.10 (3)`, `24.64 (n=1)`; sd and number of seeds."""
    if measured is None:
        return BLANK
    mean = f"{measured.mean:+.2f}" if signed else f"{measured.mean:.2f}"
    return f"{mean} (n=1)" if measured.sd is None else f"{mean} ± {measured.sd:.2f} ({measured.n})"


def last(cell: Cell, metric: str) -> Sample | None:
    """Another metric of the cell's saved students, over seeds."""
    return Sample.of([row.metrics.last[metric] for row in cell.rows if row.metrics and metric in row.metrics.last])


def learned(cell: Cell) -> dict[str, Sample]:
    """What the method has learned, by name and over seeds."""
    found: dict[str, list[float]] = {}
    for row in cell.rows:
        for name, value in row.learned.items():
            found.setdefault(name, []).append(value)
    return {name: one for name, values in found.items() if (one := Sample.of(values))}


def learned_note(cell: Cell) -> list[str]:
    """`learned: attention 936.4 ± 12.3, soft_target 0.1234 ± 0.0012 (3)`; nothing where nothing is."""
    found = learned(cell)
    if not found:
        return []
    parts = [f"{name} {one.mean:.4g}" + ("" if one.sd is None else f" ± {one.sd:.3g}") for name, one in found.items()]
    n = max(one.n for one in found.values())
    return [f"learned: {', '.join(parts)} ({n if n > 1 else 'n=1'})"]


def reported(block: Block, line: Line) -> str:
    """The reported number of each pair that the block stands for, in their order; equal ones once."""
    digits = DIGITS.get(line.cell.metric, 2)
    values = [line.reported(pair) for pair in block.pairs]
    shown = [number(value, digits) for value in values]
    if len(set(shown)) == 1:
        std = line.cell.reported.std if line.cell.reported else None
        return shown[0] if std is None else f"{shown[0]} ± {std:.2f}"
    if len(shown) <= 3:
        return " / ".join(shown)
    known = [value for value in values if value is not None]
    return f"{min(known):.{digits}f} to {max(known):.{digits}f}"


def against(cell: Cell) -> str:
    """Difference and tolerance, where the two numbers are set against each other."""
    verdict = cell.verdict
    if verdict.difference is None or verdict.tolerance is None:
        return BLANK
    return f"{verdict.difference:+.2f} / {verdict.tolerance:.2f}"


def params(cell: Cell) -> str:
    return BLANK if cell.cost is None else f"{cell.cost.params / 1e6:.2f}"


def gflops(cell: Cell) -> str:
    return BLANK if cell.cost is None else f"{cell.cost.flops / 1e9:.3g}"


def throughput(cell: Cell) -> str:
    if cell.cost is None:
        return BLANK
    rate = cell.cost.images_per_second
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def step(cell: Cell) -> str:
    return BLANK if cell.cost is None else f"{cell.cost.step_seconds * 1e3:.0f}"


def worth(cell: Cell) -> str:
    """Points for each training time of `none` spent on top: +1.20."""
    return BLANK if cell.worth is None else f"{cell.worth:+.2f}"


def times(cell: Cell) -> str:
    """Training cost over that of `none`: ×1.35."""
    return BLANK if cell.cost is None or cell.cost.factor is None else f"×{cell.cost.factor:.2f}"
