"""What stands above and below a table: where its numbers come from and what they can and cannot show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..records.row import Row
from ..records.store import Misfit
from ..spec.recipe import Scale
from ..spec.reported import load_reported
from ..spec.table import Table
from .blocks import Block
from .cells import Cell
from .values import metric_name
from .verdicts import noise_budget

LISTED = 8  # reported numbers named one by one, at most


def header(table: Table, cells: Sequence[Cell], scale: Scale) -> list[str]:
    """Scale, data, seeds and machines of the rows that a table shows."""
    rows = _rows(cells)
    lines = [f"{metric_name(table.metric)} in percent, {_selection(cells, table)}. {table.citation}"]
    if not rows:
        lines.append(f"scale: {scale}; nothing has been run: `make reproduce-{table.dataset.full}` runs it")
        return lines
    sets = {id(row.run.data): row.run.data for row in rows}.values()  # few: rows that were read together share theirs
    data = sorted({f"{d.name} ({d.train_images} train, {d.val_images} val images, {d.classes} classes)" for d in sets})
    seeds = sorted({row.run.seed for row in rows})
    machines = sorted({row.environment.machine for row in rows})
    lines.append(
        f"scale: {scale}; data: {', '.join(data)}; seeds: {', '.join(map(str, seeds))}; "
        f"{'machine' if len(machines) == 1 else 'machines'}: {', '.join(machines)}"
    )
    if len(machines) > 1:
        lines.append("Throughput and step time are comparable within one machine only; these rows come from several.")
    return lines


def footer(table: Table, cells: Sequence[Cell], parts: Sequence[Block], scale: Scale) -> list[str]:
    """What this table shows, and what it does not."""
    rows = _rows(cells)
    exercised = _exercised(table, cells)
    if not rows:
        return ["Nothing is measured yet; the reported numbers stand alone.", *exercised[1:]]
    shown = {cell.label for cell in cells if not cell.entry.skipped_at(scale)}
    if left_out := list(dict.fromkeys(cell.label for cell in cells if cell.label not in shown)):
        exercised.append(f"Left out at mini scale, to keep it short: {', '.join(left_out)}.")
    gaps = [text for block in parts if (text := _gap(block, table.metric))]
    cost = (
        "Gains are over our own `none` at equal optimiser steps, paired by seed; `time` is what they cost: training "
        "time over that of `none`, a method's earlier phase included."
    )
    if scale == "mini":
        stand_in = (
            "Nothing is set against a reported number: data, networks and recipe are not the paper's. A method that "
            "gains or loses here may not do so at the paper's scale."
        )
        return [*exercised, stand_in, cost, _spread(cells), *gaps]
    return [_counts(cells), _rule(table), *exercised, cost, _spread(cells), *gaps]


def misfit_lines(misfits: Iterable[Misfit]) -> list[str]:
    return [f"{misfit.path}: {misfit.reason}" for misfit in misfits]


def _rows(cells: Sequence[Cell]) -> list[Row]:
    return [row for cell in cells for row in cell.rows]


def _selection(cells: Sequence[Cell], table: Table) -> str:
    names = {"last": "last epoch", "best": "best epoch", "mean_last10": "mean of the last ten epochs"}
    others = {names[cell.selection] for cell in cells} - {names[table.selection]}
    return names[table.selection] + (f" (where marked: {', '.join(sorted(others))})" if others else "")


def _exercised(table: Table, cells: Sequence[Cell]) -> list[str]:
    """How many of the reported numbers were exercised, and which were not and why."""
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
            why = "no entry in this table" if cell is None else cell.verdict.word
            missing.append(f"{row.method} {row.teacher} -> {row.student}: {why}")
    if not numbers:
        return ["No number is reported: the paper's could not be had, so nothing is set against any."]
    where = "with the small networks named above" if cells and cells[0].scale == "mini" else "with the paper's networks"
    lines = [f"Exercised {len(done)} of the {len(numbers)} reported numbers of distilled students, {where}."]
    if missing and len(missing) <= LISTED:
        lines.append(f"Not exercised: {'; '.join(missing)}.")
    elif missing:
        lines.append(f"Not exercised: {len(missing)}, among them {'; '.join(missing[: LISTED // 2])}.")
    return lines


def _counts(cells: Sequence[Cell]) -> str:
    judged = [cell.verdict.word for cell in cells if cell.reported_value is not None]
    if not judged:
        return "No cell has a reported number."
    words = [f"{judged.count(word)} {word}" for word in dict.fromkeys(judged)]
    return f"Of {len(judged)} cells with a reported number: {', '.join(words)}."


def _rule(table: Table) -> str:
    budget = noise_budget(table.dataset.full, table.task)
    return (
        "Reproduced: |measured - reported| <= tolerance = sqrt((t s / sqrt(n))^2 + (1.96 s_r)^2), s the sample sd over "
        f"n seeds (n=1: {budget} with factor 1.96), s_r the printed sd, else {budget}. Measured: "
        "no number is reported for the cell."
    )


def _spread(cells: Sequence[Cell]) -> str:
    """What is known of the noise from seed to seed."""
    sds = {cell.rows[0].id: cell.measured for cell in cells if cell.measured and cell.measured.sd is not None}
    if not sds:
        return "One seed has no spread (n=1): a gain below about twice the seed-to-seed noise is no evidence."
    freedom = sum(one.n - 1 for one in sds.values())
    pooled = math.sqrt(sum((one.sd or 0.0) ** 2 * (one.n - 1) for one in sds.values()) / freedom)
    return (
        f"Seed-to-seed sd {pooled:.2f}, pooled over {len(sds)} cells; ± is the sample sd, (n) the number of seeds. "
        f"A gain from one seed below about {2 * math.sqrt(2) * pooled:.1f} is no evidence."
    )


def _gap(block: Block, metric: str) -> str:
    """How far the student alone lies below its teacher: what there is to gain."""
    alone, teacher = block.alone, block.teacher_measured
    if alone is None or alone.measured is None or teacher is None:
        return ""
    gap = teacher - alone.measured.mean
    side = "below" if gap >= 0 else "above"
    return (
        f"{block.shown}: the student alone lies {abs(gap):.1f} {metric_name(metric)} {side} its teacher "
        f"({alone.measured.mean:.1f} against {teacher:.1f})."
    )
