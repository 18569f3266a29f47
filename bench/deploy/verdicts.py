"""The lines of tables that a run is part of, with their verdicts, for its model card."""

from __future__ import annotations

from collections.abc import Sequence

from ..records.row import Row
from ..report import values
from ..report.cells import Cell, collect
from ..spec.table import Table


def table_lines(row: Row, tables: Sequence[Table], rows: Sequence[Row]) -> tuple[str, ...]:
    """A line about each cell that the row is part of: table, pair, reported and measured number, verdict.

    Args:
        row: a finished run's.
        tables: with what requests added.
        rows: of the folder that the row is in.
    """
    lines: dict[str, None] = {}
    for table in tables:
        if table.task != row.run.task or getattr(table.dataset, row.run.scale) != row.run.data.name:
            continue
        for cell in collect(table, rows, row.run.scale):
            if any(each.id == row.id for each in cell.rows):
                lines[_line(table, cell)] = None
    return tuple(lines)


def _line(table: Table, cell: Cell) -> str:
    pair = f"{cell.pair.teacher} -> {cell.pair.student}"
    numbers = f"measured {values.sample(cell.measured)} {table.metric} ({cell.selection} epoch)"
    if cell.reported is not None and cell.reported.value is not None:
        numbers = f"reported {values.number(cell.reported.value)}, {numbers}"
    return f"{table.name}, {pair}, {cell.label}: {numbers}: {cell.verdict.text}"
