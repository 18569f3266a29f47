"""`kdbench check`: everything that can be wrong before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from kdbench import datasets

from .. import networks, tasks
from ..errors import USER_ERRORS
from ..grid.validate import validate
from ..records.store import read_rows
from ..records.students import unusable_students
from ..records.weights import COMMITTED, read_weights, weights_folder
from ..report.coverage import coverage, unused
from ..report.evidence import Published, Subject
from ..spec.choice import MethodChoice
from ..spec.recipe import load_recipe, recipe_names
from ..spec.reported import load_reported, reported_names
from ..spec.reruns import RERUNS, all_reruns, all_settings, load_reruns, rerun_names
from ..spec.table import load_table, table_names
from ..text import counted
from .user_data import detect_format


def problems(data_root: Path, results: list[Path]) -> Iterator[tuple[str, bool]]:
    """A line about each thing that was checked, and whether it is wrong.

    Args:
        data_root: folder that holds data sets.
        results: folders of rows.
    """
    for name in recipe_names():
        yield _attempt(f"recipe {name}", lambda name=name: _recipe(name))  # type: ignore[misc]
    for name in table_names():
        yield _attempt(f"table {name}", lambda name=name: _table(name))  # type: ignore[misc]
    yield from _reported()
    for name in rerun_names():
        yield _attempt(f"reruns {name}", lambda name=name: _reruns(name))  # type: ignore[misc]
    yield _attempt("settings", lambda: counted(len(all_settings()), "setting"))
    yield from networks.reports()
    for task, name in _sets(data_root):
        yield _attempt(f"data {name}", lambda t=task, n=name: _data(t, n, data_root, None, {}))  # type: ignore[misc]
    yield from row_problems(results)


def data_problems(data_root: Path, data: Path, ignore_index: int | None = None) -> Iterator[tuple[str, bool]]:
    """A line about a user's data, and whether it is wrong.

    Args:
        data_root: folder that holds data sets.
        data: file or folder.
        ignore_index: of its masks.

    Raises:
        DataError: it is of no known format.
    """
    options = {} if ignore_index is None else {"ignore_index": ignore_index}
    task = detect_format(data).task
    yield _attempt(f"data {data}", lambda: _data(task, data.name, data_root, data, options))


def row_problems(results: list[Path]) -> Iterator[tuple[str, bool]]:
    """A line about the rows of these folders, and about each that is not valid or has no student any more."""
    rows, invalid = read_rows(results)
    yield f"results: {counted(len(rows), 'row')}", False
    yield from ((text, True) for root in results for text in unusable_students(root, rows))
    weights, invalid_weights = read_weights([*map(weights_folder, results), COMMITTED])
    yield f"weights: {counted(len(weights), 'row')}", False
    for invalid_row in (*invalid, *invalid_weights):
        yield f"{invalid_row.path}: {invalid_row.reason}", True


def method_problems(choices: Iterable[MethodChoice]) -> Iterator[tuple[str, bool]]:
    """A line about each promise that methods make, and whether it is broken; users' files are made known first."""
    from kdbench.methods.base import MethodError

    from ..contract import report
    from ..grid.choose import register

    for choice in choices:
        try:
            register([choice])
            yield from report(choice.method, choice.options)
        except MethodError as error:
            yield str(error), True


def _reported() -> Iterator[tuple[str, bool]]:
    """Whether a run of some table can reproduce every reported number, or the table says why not."""
    try:
        tables = [load_table(name) for name in table_names()]
        numbers = {name: load_reported(name) for name in reported_names()}
        logs = Published(all_reruns()).logs
    except USER_ERRORS as error:
        yield f"reported: {error}", True
        return
    for file in coverage(tables, numbers, logs):
        yield file.line, bool(file.problems)
    for text in unused(tables, numbers):
        yield text, True


def _reruns(name: str) -> str:
    """How many values a file has, and how many of them are beside a reported number."""
    subjects = {Subject.of(row) for file in reported_names() for row in load_reported(file) if row.value is not None}
    runs = load_reruns(RERUNS / f"{name}.csv")
    beside = sum((run.dataset, run.teacher, run.student, run.method, run.metric) in subjects for run in runs)
    return f"{counted(len(runs), 'value')}, {beside} beside a reported number"


def _attempt(what: str, check: Callable[[], str]) -> tuple[str, bool]:
    from kdbench.methods.base import MethodError

    try:
        return f"{what}: {check()}", False
    except (*USER_ERRORS, MethodError) as error:
        return f"{what}: {error}", True


def _recipe(name: str) -> str:
    recipe = load_recipe(name)
    tasks.get(recipe.task).check_image_kind(recipe)
    return recipe.source


def _table(name: str) -> str:
    table = load_table(name)
    validate(table)
    cells = sum(len(table.entries(pair)) for pair in table.pairs)
    return f"{counted(len(table.pairs), 'pair')}, {counted(cells, 'cell')}"


def _sets(data_root: Path) -> Iterator[tuple[str, str]]:
    """Task and name of the data sets of all tables that are on disk or embedded."""
    tables = [load_table(name) for name in table_names()]
    named = {(table.task, name) for table in tables for name in (table.dataset.full, table.dataset.mini)}
    for task, name in sorted(named):
        if name == "digits" or datasets.present(name, data_root):
            yield task, name


def _data(task: str, name: str, root: Path, path: Path | None, options: dict[str, Any]) -> str:
    kind = tasks.get(task)
    data = kind.open(name, root, path, options)
    kind.verify(data, full=True)
    size = kind.describe(data)
    counts = (
        f"{size.train_images} + {counted(size.val_images, 'image')}, {counted(size.classes, 'class', 'classes')}, "
        f"{size.fingerprint}"
    )
    return "; ".join((counts, *data.notices))
