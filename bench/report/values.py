"""Numbers as text: how tables and plots print a measurement, a reported number, a gain and a cost."""

from __future__ import annotations

from .. import tasks
from ..records.row import LONG_WAIT
from ..spec.table import Table
from .cells import Cell
from .evidence import Evidence, Kind
from .verdicts import Sample

BLANK = "-"


def metric_title(table: Table) -> str:
    """The name of the table's metric in headings."""
    return tasks.metric(table.task, table.metric).title


def number(value: float | None, digits: int = 2) -> str:
    """`40.15`; a dash for none."""
    return BLANK if value is None else f"{value:.{digits}f}"


def sample(measured: Sample | None) -> str:
    """Mean, sd and number of seeds: `40.15 ± 0.10 (3)`, `24.64 (n=1)`."""
    if measured is None:
        return BLANK
    mean = f"{measured.mean:.2f}"
    return f"{mean} (n=1)" if measured.sd is None else f"{mean} ± {measured.sd:.2f} ({measured.n})"


def gain(difference: Sample | None) -> str:
    """Mean, half of its 95 % interval and number of seeds: `+1.20 ± 0.35 (3)`, `-0.40 (n=1)`."""
    if difference is None:
        return BLANK
    half = difference.half_width
    return f"{difference.mean:+.2f} (n=1)" if half is None else f"{difference.mean:+.2f} ± {half:.2f} ({difference.n})"


def last(cell: Cell, metric: str) -> Sample | None:
    """A metric of the cell's saved students, over seeds."""
    return Sample.of([row.metrics.last[metric] for row in cell.rows if row.metrics and metric in row.metrics.last])


def learned(cell: Cell) -> dict[str, Sample]:
    """What the method has learned, by name and over seeds."""
    by_name: dict[str, list[float]] = {}
    for row in cell.rows:
        for name, value in row.learned.items():
            by_name.setdefault(name, []).append(value)
    samples = {name: Sample.of(values) for name, values in by_name.items()}
    return {name: values for name, values in samples.items() if values}


def learned_note(cell: Cell) -> list[str]:
    """`learned: attention 936.4 ± 12.3, soft_target 0.1234 ± 0.0012 (3)`; empty where the method learns nothing."""
    samples = learned(cell)
    if not samples:
        return []
    parts = [f"{name} {s.mean:.4g}" + ("" if s.sd is None else f" ± {s.sd:.3g}") for name, s in samples.items()]
    n = max(values.n for values in samples.values())
    return [f"learned: {', '.join(parts)} ({n if n > 1 else 'n=1'})"]


def reported(table: Table, cell: Cell) -> str:
    """The reported number, with its sd where one is given."""
    text = number(cell.reported_value, tasks.metric(table.task, cell.metric).digits)
    std = cell.reported.std if cell.reported else None
    return text if std is None else f"{text} ± {std:.2f}"


def evidence(cell: Cell, kind: Kind) -> str:
    """Mean, number of runs, difference to the reported number and verdict: `75.80 (n=1 of 6) -0.52 reproduced`."""
    found = cell.evidence.get(kind)
    if found is None:
        return BLANK
    parts = [_counted_sample(found)]
    if found.verdict.difference is not None:
        parts += [f"{found.verdict.difference:+.2f}", found.verdict.word]
    return " ".join(parts)


def _counted_sample(found: Evidence) -> str:
    """A sample, and of how many runs those are that are compared."""
    text, n = sample(found.sample), found.sample.n
    return text if found.found == n else text.replace("(n=1)", "(1)").replace(f"({n})", f"({n} of {found.found})")


def evidence_notes(cell: Cell, kind: Kind) -> list[str]:
    """Why the evidence is not compared, and what else there is, in one line."""
    found = cell.evidence.get(kind)
    parts = [] if found is None else [reason for reason in (_reason(found), *found.notes) if reason]
    return ["; ".join(parts)] if parts else []


def _reason(found: Evidence) -> str:
    return found.verdict.reason if found.verdict.word == "not comparable" else ""


def difference(cell: Cell) -> str:
    """Difference of measured and reported, and tolerance; a dash where they are not compared."""
    verdict = cell.verdict
    if verdict.difference is None or verdict.tolerance is None:
        return BLANK
    return f"{verdict.difference:+.2f} / {verdict.tolerance:.2f}"


def params(cell: Cell) -> str:
    """The student's parameters, millions."""
    return BLANK if cell.cost is None else f"{cell.cost.params / 1e6:.2f}"


def gflops(cell: Cell) -> str:
    """One forward of the student on one image, 1e9 floating-point operations."""
    return BLANK if cell.cost is None else f"{cell.cost.flops / 1e9:.3g}"


def throughput(cell: Cell) -> str:
    """Training images a second."""
    if cell.cost is None:
        return BLANK
    rate = cell.cost.images_per_second
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def throughput_notes(cell: Cell) -> list[str]:
    """That training waited for data, where it did so for long."""
    wait = cell.cost.data_wait if cell.cost else None
    return [f"training waited for data in {wait:.0%} of its time"] if wait is not None and wait > LONG_WAIT else []


def step(cell: Cell) -> str:
    """A training step, milliseconds."""
    return BLANK if cell.cost is None else f"{cell.cost.step_seconds * 1e3:.0f}"


def gain_per_time(cell: Cell) -> str:
    """Points per extra training time, in units of the time of `none`: `+1.20`."""
    return BLANK if cell.gain_per_time is None else f"{cell.gain_per_time:+.2f}"


def time_factor(cell: Cell) -> str:
    """Training time over that of `none`: `×1.35`."""
    return BLANK if cell.cost is None or cell.cost.factor is None else f"×{cell.cost.factor:.2f}"
