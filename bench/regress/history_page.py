"""The history of tables for the report page: results over commits, with the changes that `compare` finds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..records.row import Row
from ..report.blocks import Block
from ..report.html.history_data import Panel, Point, TableHistory
from ..report.values import metric_title
from ..spec.table import Table
from . import history_series
from .history import history
from .history_series import Series, Side, busiest_machine, least_span, panels


def table_histories(tables: Sequence[Table], rows: Sequence[Row]) -> list[TableHistory]:
    """The history of each table at each scale at which two commits have rows of it.

    Args:
        tables: those that are shown.
        rows: of every commit, several of one run included.

    Raises:
        SpecError, MethodError: a table, a recipe or a file of reported numbers is wrong.
    """
    return list(_histories(tables, rows))


def _histories(tables: Sequence[Table], rows: Sequence[Row]) -> Iterator[TableHistory]:
    for table in tables:
        for scale in ("full", "mini"):
            about = [row for row in rows if row.run.scale == scale and _is_about(row, table)]
            if len({row.environment.commit for row in about}) < 2:
                continue
            commits = history(table, about, scale)
            machine = busiest_machine(commits)
            if drawn := panels(commits, machine):
                used = sum(len(cell.rows) for results in commits for cell in results.cells)
                times = [(results.commit, results.finished) for results in commits]
                made = [_panel(*panel, table, least_span(commits)) for panel in drawn]
                yield TableHistory(table.name, scale, machine, used, times, made)


def _is_about(row: Row, table: Table) -> bool:
    return row.run.task == table.task and row.run.data.name == getattr(table.dataset, row.run.scale)


def _panel(block: Block, side: Side, series: Series, table: Table, span: float) -> Panel:
    axis = f"{metric_title(table)} (%)" if side == "accuracy" else "step (ms)"
    title = ", ".join(filter(None, (block.title.replace("->", "→"), block.pairs[0].strategy)))
    return Panel(
        title, side, axis, span, {name: [_point(point) for point in points] for name, points in series.items()}
    )


def _point(point: history_series.Point) -> Point:
    value = None if math.isnan(point.value) else float(f"{point.value:.6g}")
    return Point(point.index, value, point.word, point.size)
