"""The cells of the shipped tables at full scale that the tests of CUDA run: each method once, and each network once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest import mock

from kdbench import methods, networks
from kdbench.grid.cells import CellSpec, expand, runs_of
from kdbench.networks import detectron2
from kdbench.spec.run import Data, Run
from kdbench.spec.table import Table, load_table, table_names

IMAGES = 20_000
"""Training images: CRD draws its negatives from so many."""
SMALL: dict[str, dict[str, Any]] = {
    "padded_crop": {"batch_size": 4},
    "resized_crop": {"batch_size": 2, "image.size": 64},
    "scaled_crop": {"batch_size": 2, "image.height": 64, "image.width": 64},
    "resize": {"batch_size": 2, "image.shorter": 64, "image.longer": 96},
}
"""Changes of a recipe by the kind of its images. No code depends on how many images there are, or how large."""
FIXED = ("swin",)
"""Beginnings of the names of networks that take images of the recipe's size only."""


@dataclass(frozen=True)
class Cell:
    """A run of a table, with shapes that a CPU computes in a second.

    Attributes:
        run: of the cell.
        method: of the run.
        choices: options of the method that choose between paths of its code, where they are no defaults.
    """

    run: Run
    method: str
    choices: tuple[str, ...] = ()

    @property
    def variant(self) -> str:
        """Such as `akd+cwd normalise=false`."""
        return " ".join([self.method, *self.choices])

    @property
    def parts(self) -> set[str]:
        return {*self.method.split("+"), *self.choices}

    @property
    def networks(self) -> frozenset[str]:
        return frozenset(filter(None, (self.run.teacher_network, self.run.student)))

    @property
    def family(self) -> str:
        """Of its networks: methods compare other outputs of classifiers, of segmenters and of each kind of detector."""
        return _family(self.run.student)

    def __str__(self) -> str:
        teacher = self.run.teacher_network
        return f"{self.variant} {f'{teacher}->' if teacher else ''}{self.run.student}"


@cache
def cells() -> tuple[Cell, ...]:
    """All cells of all tables, torchvision's detectors in place of detectron2's."""
    with mock.patch.object(detectron2, "unavailable", return_value="not used"):
        return tuple(cell for name in table_names() for cell in _cells(load_table(name)))


@cache
def of_methods(task: str) -> list[Cell]:
    """Cells that have every method, and every option that chooses between paths of its code, with each family."""
    known: set[tuple[str, str]] = set()
    chosen = []
    for cell in cells():
        parts = {(cell.family, part) for part in cell.parts}
        if cell.run.task == task and not parts <= known:
            chosen.append(cell)
            known |= parts
    return chosen


def repeats(cells: list[Cell]) -> list[bool]:
    """Whether cells of its task before it have each cell's method, and others its family of networks.

    Of classifiers, whose steps take a second, also its options.
    """
    known: set[tuple[str, str]] = set()
    found = []
    for cell in cells:
        of_method = cell.parts if cell.run.task == "classification" else cell.method.split("+")
        parts = {(cell.run.task, part) for part in (*of_method, cell.family)}
        found.append(parts <= known)
        known |= parts
    return found


@cache
def of_networks(task: str) -> list[Cell]:
    """Cells that have every network that no cell of `of_methods` has, as few as that takes."""
    missing = set[str]().union(*(cell.networks for cell in cells() if cell.run.task == task))
    missing -= set[str]().union(*(cell.networks for cell in of_methods(task)))
    chosen = []
    while missing:
        chosen.append(max(cells(), key=lambda cell: len(cell.networks & missing)))
        missing -= chosen[-1].networks
    return chosen


_family = cache(networks.family)


def _cells(table: Table) -> Iterator[Cell]:
    kind = next(cell.recipe.image.kind for cell in expand(table, "full"))
    changes = SMALL[kind] | {"init": "random", "teacher.batch_size": 2}
    for cell in expand(table, "full", changes):
        if not cell.skip:
            if any(str(network).startswith(FIXED) for network in (cell.teacher, cell.student)):
                image = cell.recipe.image.model_copy(update={"size": 224})
                cell = replace(cell, recipe=cell.recipe.model_copy(update={"image": image}))
            yield Cell(_run(cell, table), cell.entry.method, _choices(cell))


def _run(cell: CellSpec, table: Table) -> Run:
    size = table.data_size
    data = Data(name=table.dataset.full, fingerprint="", train_images=IMAGES, val_images=IMAGES, classes=size.classes)
    return runs_of(cell, table, data, [0])[0]


def _choices(cell: CellSpec) -> tuple[str, ...]:
    """The options of a cell's method other than numbers, which change values and no path of the code."""
    defaults = _flat(methods.resolve(cell.entry.method, {}))
    return tuple(
        f"{name}={json.dumps(value)}"
        for name, value in _flat(cell.options or {}).items()
        if isinstance(value, bool | str) and value != defaults.get(name)
    )


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{name}.{key}".rstrip("."): each for key, each in inner.items()}
    return flat
