"""A user's data in tables of its own: the methods, networks and recipes of a paper's table, and none of its numbers."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import SpecError
from ..records.row import Row
from ..spec.run import Data
from ..spec.scale import Scale
from ..spec.table import ByScale, DataSize, Selection, Table, load_table, table_names
from ..text import counted
from .cells import Cell, collect
from .evidence import NOTHING, Published


def with_results(
    table: Table,
    rows: Sequence[Row],
    scale: Scale | None,
    published: Published = NOTHING,
    select: Selection | None = None,
) -> list[tuple[Table, Scale, list[Cell]]]:
    """The table and those of a user's data that have results, each with its scale and cells.

    The table itself is left out where it has no result and another has.
    """
    views = [(each, *collect_at(each, rows, scale, published, select)) for each in (table, *own_tables(table, rows))]
    return [view for view in views if has_results(view[2])] or views[:1]


def collect_at(
    table: Table,
    rows: Sequence[Row],
    scale: Scale | None,
    published: Published = NOTHING,
    select: Selection | None = None,
) -> tuple[Scale, list[Cell]]:
    """The table's cells at `scale`; without one, at mini scale if it has rows of that scale alone, else at full scale.

    So a table without rows shows its reported numbers, which mini scale does not.
    """
    if scale is not None:
        return scale, collect(table, rows, scale, published, select)
    full = collect(table, rows, "full", published, select)
    if has_results(full):
        return "full", full
    mini = collect(table, rows, "mini", select=select)
    return ("mini", mini) if has_results(mini) else ("full", full)


def results_on(
    path: Path,
    task: str,
    data: Data,
    tables: Sequence[Table],
    rows: Sequence[Row],
    scale: Scale | None,
    repeats: bool = True,
) -> tuple[list[Table], list[Row]]:
    """The rows on a user's data set, and the tables that have results on it, as tables of that set.

    Args:
        path: of the data.
        task: that it is for.
        data: name, sizes and fingerprint; rows of a set of the same name with another content are left out.
        tables: those that are looked for.
        rows: of any data.
        scale: None for both.
        repeats: keep tables that show nothing but what another one shows, too.

    Raises:
        SpecError: there is no result; the message has the command that makes one.
    """
    fitting = [table for table in tables if table.task == task]
    if not fitting:
        raise SpecError(f"--data {path} is for {task}, and these tables are not: {', '.join(t.name for t in tables)}")
    named = [row for row in rows if row.run.data.name == data.name and row.run.task == task]
    same = [row for row in named if row.run.data.fingerprint == data.fingerprint]
    own = [for_data(table, data) for table in fitting]
    shown = [(table, _ids(collect_at(table, same, scale)[1])) for table in own]
    if found := [table for table, ids in shown if ids]:
        return found if repeats else _without_repeats(shown), same
    size = f"{data.train_images} + {counted(data.val_images, 'image')}, {data.fingerprint}"
    others = f"; {counted(len(named), 'row')} of this name are of other content" if named and not same else ""
    command = f"kdbench run {fitting[0].name} --data {shlex.quote(str(path))}" + (f" --scale {scale}" if scale else "")
    raise SpecError(f"no result on {data.name} ({size}){others}; make some: {command}")


def _ids(cells: Iterable[Cell]) -> set[str]:
    return {row.id for cell in cells for row in (*cell.rows, *cell.unfinished)}


def _without_repeats(shown: Iterable[tuple[Table, set[str]]]) -> list[Table]:
    """The tables that show some row that none before them shows, those with most rows first."""
    seen: set[str] = set()
    kept = []
    for table, ids in sorted(shown, key=lambda each: -len(each[1])):
        if not ids <= seen:
            kept.append(table)
            seen |= ids
    return kept


def has_results(cells: Iterable[Cell]) -> bool:
    """Whether any run of these cells is finished, with or without a number."""
    return any(cell.rows or cell.unfinished for cell in cells)


def for_data(table: Table, data: Data) -> Table:
    """`table` itself where `data` is its data set, else as a table of `data`."""
    if data.name in _names(table):
        return table
    update = {
        "name": f"{data.name}/{table.name}",
        "title": f"own data, in the recipes of {table.name}",
        "citation": "No paper reports numbers on this data.",
        "dataset": ByScale(full=data.name, mini=data.name),
        "data_size": DataSize(train_images=data.train_images, val_images=data.val_images, classes=data.classes),
        "reported": (),
        "unreachable": (),
    }
    return table.model_copy(update=update)


def own_tables(table: Table, rows: Iterable[Row]) -> list[Table]:
    """`table` for every data set of `rows` that is neither its own nor another shipped table's, by name.

    Rows of other tables are among `rows`, so some of these tables may have no result.
    """
    latest = {row.run.data.name: row.run.data for row in rows if row.run.task == table.task}
    own = latest.keys() - _names(table)
    if own:
        own -= {name for other in table_names() for name in _names(load_table(other))}
    return [for_data(table, latest[name]) for name in sorted(own)]


def _names(table: Table) -> Sequence[str]:
    return table.dataset.full, table.dataset.mini
