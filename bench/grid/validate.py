"""Everything that can be wrong about tables and requests before any data is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdbench import datasets, methods

from .. import networks, tasks
from ..errors import SpecError, unknown
from ..spec.reported import load_reported
from ..spec.scale import Scale
from ..spec.table import Pair, Table
from .cells import canonical, expand_pair
from .pairs import networks_at, unsupported

MOST_SAMPLES = 20_000  # of a trial's memory banks


def check_request(tables: Sequence[Table], scale: Scale, changes: dict[str, Any]) -> None:
    """Everything that can be wrong about a request before its data is opened.

    Raises:
        SpecError or MethodError: a table, or a recipe change.
    """
    for table in tables:
        validate(table)
        for pair in table.pairs:
            if not unsupported(pair, scale):
                expand_pair(table, pair, scale, changes)


def validate(table: Table) -> None:
    """Everything about a table that can be wrong without any data: networks, pairs, methods, options, recipes.

    Raises:
        SpecError or MethodError: names the table's field.
    """
    if table.task not in tasks.names():
        raise unknown(f"task of {table.name}", table.task, tasks.names())
    metrics = [metric.key for metric in tasks.get(table.task).metrics]
    if table.metric not in metrics:
        raise unknown(f"metric of {table.name}", table.metric, metrics)
    if table.dataset.mini not in datasets.names() or table.dataset.full not in datasets.names():
        wrong = next(name for name in (table.dataset.mini, table.dataset.full) if name not in datasets.names())
        raise unknown(f"dataset of {table.name}", wrong, datasets.names())
    _check_reported(table)
    scales: tuple[Scale, Scale] = ("full", "mini")
    for scale in scales:
        built: set[tuple[str, str]] = set()
        for i, pair in enumerate(table.pairs):
            if not unsupported(pair, scale):
                where = f"{table.name}: pairs[{i}]" + (".mini" if scale == "mini" else "")
                _check_networks(table, pair, scale, where)
                _check_methods(table, pair, scale, where, built)


def _check_networks(table: Table, pair: Pair, scale: Scale, where: str) -> None:
    _check_pair(where, *networks_at(pair, scale), table.task)
    if scale == "full" and pair.networks:
        _check_pair(f"{where}.networks", pair.networks.teacher, pair.networks.student, table.task)


def _check_methods(table: Table, pair: Pair, scale: Scale, where: str, built: set[tuple[str, str]]) -> None:
    """Every recipe loads and every method can be built; `built` are methods with options that were."""
    images = table.data_size.train_images if table.data_size else MOST_SAMPLES
    samples = min(images, MOST_SAMPLES) if scale == "full" else 2_000
    entries, whole = table.entries(pair), True
    try:
        expand_pair(table, pair, scale, {}, entries=entries)  # loads a recipe once
    except (ValueError, TypeError):
        whole = False  # tried one by one below, where the error names its entry
    for j, entry in enumerate(entries):
        try:
            if not whole:
                expand_pair(table, pair, scale, {}, entries=[entry])
            options = methods.resolve(entry.method, entry.options_at(scale))
            if (key := (entry.method, canonical(options))) not in built:
                methods.build(entry.method, tasks.get(table.task).example_setting(samples, 10), **options)
                built.add(key)
        except (ValueError, TypeError) as error:
            raise SpecError(f"{where}, method {j} ({entry.display_name}): {error}") from error


def _check_reported(table: Table) -> None:
    """Every reported method that a table names is in the files that it names."""
    rows = [row for source in table.reported for row in load_reported(source.file) if row.table == source.table]
    for source in table.reported:
        if not any(row.table == source.table for row in load_reported(source.file)):
            known = {row.table for row in load_reported(source.file)}
            raise unknown(f"table of results/reported/{source.file}.csv in {table.name}", source.table, known)
    reported = {row.method for row in rows}
    for i, pair in enumerate(table.pairs):
        for entry in table.entries(pair):
            if entry.reported and entry.reported not in reported:
                raise unknown(f"reported method of {table.name}: pairs[{i}]", entry.reported, reported)


def _check_pair(where: str, teacher: str, student: str, task: str) -> None:
    try:
        families = networks.family(teacher), networks.family(student)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
    for name in (teacher, student):
        if networks.task(name) != task:
            raise SpecError(f"{where}: {name} is for {networks.task(name)}, the table for {task}; choose another")
    libraries = networks.library(teacher), networks.library(student)
    if libraries[0] != libraries[1]:
        raise SpecError(
            f"{where}: {teacher} cannot teach {student}: the one is {libraries[0]}'s and the other {libraries[1]}'s, "
            "whose anchors have another order under equal shapes, so outputs of different anchors would be compared; "
            "choose both from one library"
        )
    if families[0] != families[1]:
        raise SpecError(
            f"{where}: {teacher} cannot teach {student}: a {families[0]} head and a {families[1]} head do not answer "
            "for the same places; choose a teacher and a student of one family"
        )
