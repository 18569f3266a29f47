"""Lines above and below a table: where its numbers come from and what can be concluded from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..records.row import Row
from ..records.store import InvalidRow
from ..spec.reported import load_reported
from ..spec.run import Data
from ..spec.scale import Scale
from ..spec.table import Table
from ..text import counted
from .blocks import Block
from .cells import Cell
from .comparability import EPOCHS
from .coverage import unsupported
from .values import metric_title
from .verdicts import noise_budget

GAINS = (
    "Gains are over our `none` at equal optimizer steps, paired by seed; ± is half of the 95 % interval of the mean. "
    "`time` is training time over that of `none`, a method's earlier phase included; `gain per extra training time` is "
    "in units of the time of `none`."
)

PROXY = (
    "No cell is compared with a reported number: data, networks and recipe are not the paper's. A method that gains or "
    "loses here may not do so at the paper's scale."
)

LISTED = 8  # reported numbers without a run that are listed one by one, at most


def header(table: Table, cells: Sequence[Cell], scale: Scale) -> list[str]:
    """Metric, source, scale, data, seeds and machines of a table's rows."""
    rows = _rows(cells)
    lines = [f"{metric_title(table)} in percent, {selection_title(cells, table)}. {table.citation}"]
    if not rows:
        lines.append(f"scale: {scale}; no run is finished: `{table.run_command(scale)}` runs it")
        return lines
    sets = {id(row.run.data): row.run.data for row in rows}.values()  # rows read together share these
    data = sorted({f"{d.name} ({_size(d)})" for d in sets})
    seeds = sorted({row.run.seed for row in rows})
    machines = sorted({row.environment.machine for row in rows})
    lines.append(
        f"scale: {scale}; data: {', '.join(data)}; seeds: {', '.join(map(str, seeds))}; "
        f"{'machine' if len(machines) == 1 else 'machines'}: {', '.join(machines)}"
    )
    if len(machines) > 1:
        lines.append("Throughput and step time are comparable within one machine only; these rows come from several.")
    return lines


def footer(table: Table, cells: Sequence[Cell], blocks: Sequence[Block], scale: Scale) -> list[str]:
    """How many cells have which verdict, what was and was not run, and how to read the numbers."""
    rows = _rows(cells)
    if not rows and scale == "mini":
        return ["No run is finished, and reported numbers are not shown at mini scale."]
    run = _run_of_reported(table, cells)
    if not rows:
        evident = [cell for cell in cells if cell.evidence]
        what = "reported numbers and others' evidence are" if evident else "the reported numbers are"
        return [f"No run is finished; only {what} listed.", *([_rule(table)] if evident else run[1:])]
    printed = {cell.label for cell in cells if not cell.entry.skipped_at(scale)}
    if left_out := list(dict.fromkeys(cell.label for cell in cells if cell.label not in printed)):
        run.append(f"Left out at mini scale, to keep it short: {', '.join(left_out)}.")
    reading = [
        GAINS,
        *_clear_gains(cells),
        _spread(cells),
        *(text for block in blocks if (text := _gap(block, metric_title(table)))),
    ]
    if not table.reported:
        return [*run, *reading]
    if scale == "mini":
        return [*run, PROXY, *_proxies(blocks), *reading]
    return [_counts(cells), _rule(table), *run, *reading]


def invalid_row_lines(invalid: Iterable[InvalidRow]) -> list[str]:
    """Path and reason of each file that is no result row."""
    return [f"{file.path}: {file.reason}" for file in invalid]


def _rows(cells: Sequence[Cell]) -> list[Row]:
    return [row for cell in cells for row in cell.rows]


def selection_title(cells: Sequence[Cell], table: Table) -> str:
    """Which epoch the numbers are of."""
    chosen = {cell.selection for cell in cells}
    if len(chosen) == 1:
        return EPOCHS[chosen.pop()]
    others = {EPOCHS[selection] for selection in chosen} - {EPOCHS[table.selection]}
    return EPOCHS[table.selection] + (f" (where marked: {', '.join(sorted(others))})" if others else "")


def _run_of_reported(table: Table, cells: Sequence[Cell]) -> list[str]:
    """How many of the reported numbers have a run, and which have none and why."""
    numbers = [
        row
        for source in table.reported
        for row in load_reported(source.file)
        if row.table == source.table and row.method not in ("none", "teacher") and row.value is not None
    ]
    at = {cell.reported.key: cell for cell in cells if cell.reported and cell.entry.method != "none"}
    done = [row for row in numbers if row.key in at and at[row.key].rows]
    missing = []
    for row in numbers:
        cell = at.get(row.key)
        if cell is None or not cell.rows:
            why = next(iter(unsupported(row, table)), "no entry in this table") if cell is None else cell.verdict.word
            missing.append(f"{row.method} {row.teacher} -> {row.student}: {why}")
    if not numbers:
        return ["No number is reported."]
    where = "with the small networks named above" if cells and cells[0].scale == "mini" else "with the paper's networks"
    of = f"of the {counted(len(numbers), 'reported number')} of distilled students"
    lines = [f"{counted(len(done), f'{of} was', f'{of} were')} run, {where}."]
    if missing and len(missing) <= LISTED:
        lines.append(f"Without a result: {'; '.join(missing)}.")
    elif missing:
        lines.append(f"Without a result: {len(missing)}, among them {'; '.join(missing[: LISTED // 2])}.")
    return lines


def _size(data: Data) -> str:
    classes = counted(data.classes, "class", "classes")
    return f"{data.train_images} train, {counted(data.val_images, 'val image')}, {classes}"


def _counts(cells: Sequence[Cell]) -> str:
    """How many of the cells with a reported number have which verdict."""
    verdicts = [cell.verdict.word for cell in cells if cell.reported_value is not None]
    if not verdicts:
        return "No cell has a reported number."
    words = [f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts)]
    return f"Of {counted(len(verdicts), 'cell')} with a reported number: {', '.join(words)}."


def _rule(table: Table) -> str:
    """What `reproduced` and `measured` mean."""
    budget = noise_budget(table.dataset.full, table.task)
    return (
        "Reproduced: measured and reported differ by at most the tolerance sqrt((t s / sqrt(n))^2 + (1.96 s_r)^2), s "
        f"the sample sd over n seeds (n=1: {budget} with factor 1.96), s_r the reported sd, else {budget}. Measured: "
        "no number is reported for the cell."
    )


def _spread(cells: Sequence[Cell]) -> str:
    """The sd from seed to seed, pooled over cells, and the gain that one seed can hardly show."""
    sds = {cell.rows[0].id: cell.measured for cell in cells if cell.measured and cell.measured.sd is not None}
    if not sds:
        return "One seed has no spread (n=1): a gain below about twice the seed-to-seed noise is no evidence."
    freedom = sum(sample.n - 1 for sample in sds.values())
    squares = sum((sample.sd or 0.0) ** 2 * (sample.n - 1) for sample in sds.values())
    pooled = math.sqrt(squares / freedom)
    return (
        f"Seed-to-seed sd {pooled:.2f}, pooled over {counted(len(sds), 'cell')}; ± of a measurement is its sample sd, "
        f"(n) the number of seeds. A gain from one seed below about {2 * math.sqrt(2) * pooled:.1f} is no evidence."
    )


def _clear_gains(cells: Sequence[Cell]) -> list[str]:
    """How many gains over `none` differ from zero, where some have an interval."""
    gains = {cell.rows[0].id: cell.gain for cell in cells if cell.gain and cell.gain.half_width is not None}
    if not gains:
        return []
    clear = [gain.mean for gain in gains.values() if abs(gain.mean) > (gain.half_width or 0.0)]
    above = sum(mean > 0 for mean in clear)
    return [f"95 % intervals of gains over `none`: {above} of {len(gains)} above zero, {len(clear) - above} below."]


def _proxies(blocks: Sequence[Block]) -> list[str]:
    """Which of the paper's pairs the small networks are proxies for."""
    return [
        f"{block.title} is a proxy for {', '.join(block.paper_pairs)}."
        for block in blocks
        if block.paper_pairs and any(line.cell.rows for line in block.lines)
    ]


def _gap(block: Block, metric: str) -> str:
    """The difference of the student alone and its teacher, which is the room for a gain."""
    alone, teacher = block.student_alone, block.teacher_measured
    if alone is None or alone.measured is None or teacher is None:
        return ""
    gap = teacher - alone.measured.mean
    side = "below" if gap >= 0 else "above"
    return (
        f"{block.title}: the student alone is {abs(gap):.1f} {metric} {side} its teacher "
        f"({alone.measured.mean:.1f} and {teacher:.1f})."
    )
