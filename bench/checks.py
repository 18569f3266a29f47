"""What `kdbench check` looks at: everything that can be wrong before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import datasets

from . import grid
from .errors import USER_ERRORS
from .reported import load_reported, reported_names
from .specs import load_recipe, load_table, recipe_names, table_names
from .store import read_rows


def problems(data_root: Path, data: Path | None, results: list[Path]) -> Iterator[tuple[str, bool]]:
    """Each thing looked at: a line about it, and whether it is wrong."""
    for name in recipe_names():
        yield _attempt(f"recipe {name}", lambda name=name: load_recipe(name).source)  # type: ignore[misc]
    for name in table_names():
        yield _attempt(f"table {name}", lambda name=name: _table(name))  # type: ignore[misc]
    for name in reported_names():
        yield _attempt(f"reported {name}", lambda name=name: f"{len(load_reported(name))} numbers")  # type: ignore[misc]
    for name, path in _folders(data_root, data):
        yield _attempt(f"data {path or name}", lambda n=name, p=path: _data(n, data_root, p))  # type: ignore[misc]
    rows, misfits = read_rows(results)
    yield f"results: {len(rows)} rows", False
    for misfit in misfits:
        yield f"{misfit.path}: {misfit.reason}", True


def _attempt(what: str, look: Callable[[], str]) -> tuple[str, bool]:
    from methods.base import MethodError

    try:
        return f"{what}: {look()}", False
    except (*USER_ERRORS, MethodError) as error:
        return f"{what}: {error}", True


def _table(name: str) -> str:
    table = load_table(name)
    grid.validate(table)
    return f"{len(table.pairs)} pairs, {sum(len(table.entries(pair)) for pair in table.pairs)} cells"


def _folders(data_root: Path, data: Path | None) -> Iterator[tuple[str, Path | None]]:
    """The data sets that are on disk, or the one that was named."""
    if data is not None:
        yield "coco", data
        return
    if (data_root / "coco").is_dir():
        yield "coco", None
    yield "digits", None


def _data(name: str, root: Path, path: Path | None) -> str:
    folder = datasets.open_coco(name, root, path)
    folder.train.verify(full=True)
    folder.val.verify(full=True)
    counts = f"{len(folder.train)} + {len(folder.val)} images, {len(folder.classes)} classes, {folder.fingerprint}"
    return "; ".join((counts, *folder.notices))
