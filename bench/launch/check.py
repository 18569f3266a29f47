"""What `kdbench check` looks at: everything that can be wrong before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdbench import datasets

from .. import tasks
from ..errors import USER_ERRORS
from ..grid.validate import validate
from ..networks import detectron2
from ..records.store import read_rows
from ..report.coverage import coverage, unused
from ..spec.recipe import load_recipe, recipe_names
from ..spec.reported import load_reported, reported_names
from ..spec.table import load_table, table_names
from .user_data import detect_format


def problems(
    data_root: Path, data: Path | None, results: list[Path], ignore_index: int | None = None
) -> Iterator[tuple[str, bool]]:
    """Each thing looked at: a line about it, and whether it is wrong; `ignore_index` is that of masks in `data`."""
    reading = {} if ignore_index is None else {"ignore_index": ignore_index}
    for name in recipe_names():
        yield _attempt(f"recipe {name}", lambda name=name: load_recipe(name).source)  # type: ignore[misc]
    for name in table_names():
        yield _attempt(f"table {name}", lambda name=name: _table(name))  # type: ignore[misc]
    yield from _reported()
    yield detectron2.report()
    for task, name, path in _sets(data_root, data):
        yield _attempt(f"data {path or name}", lambda t=task, n=name, p=path: _data(t, n, data_root, p, reading))  # type: ignore[misc]
    rows, misfits = read_rows(results)
    yield f"results: {len(rows)} rows", False
    for misfit in misfits:
        yield f"{misfit.path}: {misfit.reason}", True


def _reported() -> Iterator[tuple[str, bool]]:
    """Whether every printed number stands for a run of some table, or is given up there with a reason."""
    try:
        tables = [load_table(name) for name in table_names()]
        numbers = {name: load_reported(name) for name in reported_names()}
    except USER_ERRORS as error:
        yield f"reported: {error}", True
        return
    for one in coverage(tables, numbers):
        yield one.line, bool(one.problems)
    for text in unused(tables, numbers):
        yield text, True


def _attempt(what: str, look: Callable[[], str]) -> tuple[str, bool]:
    from kdbench.methods.base import MethodError

    try:
        return f"{what}: {look()}", False
    except (*USER_ERRORS, MethodError) as error:
        return f"{what}: {error}", True


def _table(name: str) -> str:
    table = load_table(name)
    validate(table)
    return f"{len(table.pairs)} pairs, {sum(len(table.entries(pair)) for pair in table.pairs)} cells"


def _sets(data_root: Path, data: Path | None) -> Iterator[tuple[str, str, Path | None]]:
    """The data sets of all tables that are on disk or embedded, or the one that was named."""
    if data is not None:
        yield detect_format(data).task, data.name, data
        return
    tables = [load_table(name) for name in table_names()]
    wanted = {(table.task, name) for table in tables for name in (table.dataset.full, table.dataset.mini)}
    for task, name in sorted(wanted):
        if name == "digits" or datasets.present(name, data_root):
            yield task, name, None


def _data(task: str, name: str, root: Path, path: Path | None, reading: dict[str, Any]) -> str:
    data = tasks.open_data(task, name, root, path, reading)
    tasks.verify(data, full=True)
    size = tasks.describe(data)
    counts = f"{size.train_images} + {size.val_images} images, {size.classes} classes, {size.fingerprint}"
    return "; ".join((counts, *data.notices))
