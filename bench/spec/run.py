"""A run: one training, identified by the hash of its fully resolved spec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field

from ..text import option_text
from .recipe import LARGEST, Count, Recipe, hashed_recipe
from .scale import Scale
from .schema import Spec, canonical_json, digest, flattened


class Data(Spec):
    """A data set as a run sees it, wherever it is on disk.

    `options` make a variant of it, such as `fraction: 0.25`; everything else describes the set as a whole.
    """

    name: str
    fingerprint: str
    train_images: Count
    val_images: Count
    classes: Annotated[int, Field(ge=1, le=LARGEST)]
    options: dict[str, Any] = {}

    @property
    def display_name(self) -> str:
        return " ".join([self.name, *(f"{name}={value}" for name, value in sorted(self.options.items()))])


class Run(Spec):
    """One training: the unit of work, identified by the hash of everything that determines its numbers.

    A frozen teacher is itself a run (of the method `none`), or a checkpoint file known by its sha256. An online teacher
    is a network that is trained with its student.
    """

    version: int = 1  # `current_version`, of when it was planned
    task: str
    scale: Scale
    data: Data
    student: str
    teacher: Run | None = None
    teacher_file: str | None = None  # sha256 of a checkpoint used in place of the teacher run's
    online_teacher: str | None = None
    method: str
    options: dict[str, Any]
    recipe: Recipe
    seed: Annotated[int, Field(ge=0, lt=2**63)]

    @cached_property
    def id(self) -> str:
        """16 hex digits of the sha256 of the canonical JSON of this spec, without a recipe's name and source."""
        return digest(hashed_spec(self.model_dump(mode="json")))

    @cached_property
    def init_seed(self) -> int:
        """Seeds initial weights; the same for all methods and teachers of a student, so comparisons are paired."""
        return init_seed(self.data.fingerprint, self.student, self.seed)

    @cached_property
    def data_seed(self) -> int:
        """Seeds data order and augmentation; the same for all networks and methods."""
        return int(digest([self.data.fingerprint, "data", self.seed]), 16) % 2**63

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with its own identity: pydantic's would keep the cached hashes of the original."""
        copied = super().model_copy(update=update, deep=deep)
        for cached in ("id", "init_seed", "data_seed"):
            copied.__dict__.pop(cached, None)
        return copied

    @property
    def display_name(self) -> str:
        return self.name_with("")

    def name_with(self, variant: str) -> str:
        """The run's name with what tells it from other runs of its method."""
        source = f"{self.teacher_network} -> " if self.teacher_network else ""
        data = " ".join(f"{name}={value} " for name, value in sorted(self.data.options.items()))
        return f"{source}{self.student} {self.method}{variant} {data}seed {self.seed}"

    @property
    def teacher_network(self) -> str | None:
        return self.teacher.student if self.teacher else self.online_teacher


def hashed_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What `Run.id` hashes of a run's JSON."""
    teacher = spec.get("teacher")
    known = {"teacher": {**teacher, "recipe": hashed_recipe(teacher["recipe"])}} if teacher else {}
    return {**spec, "recipe": hashed_recipe(spec["recipe"]), **known}


def variants(runs: Iterable[Run]) -> dict[str, str]:
    """By run, what tells it from other runs of the same method, student and teacher: `:tau=2`; empty where none is.

    Runs that are trained for another time have their epochs as well: ` 48 epochs`.
    """
    groups: dict[tuple[str | None, str, str], dict[str, list[Run]]] = {}
    for run in runs:
        alike = groups.setdefault((run.teacher_network, run.student, run.method), {})
        alike.setdefault(canonical_json(run.options), []).append(run)
    names: dict[str, str] = {}
    for alike in groups.values():
        options = [flattened(same[0].options) for same in alike.values()]
        differing = [name for name in options[0] if len({canonical_json(each.get(name)) for each in options}) > 1]
        for same, values in zip(alike.values(), options, strict=True):
            suffix = "".join(f":{name}={option_text(values.get(name))}" for name in differing)
            epochs = {run.recipe.epochs for run in same}
            names |= {run.id: suffix + (f" {run.recipe.epochs} epochs" if len(epochs) > 1 else "") for run in same}
    return names


def current_version(recipe: Recipe) -> int:
    """`Run.version` of a new run: 2 where earlier rows of the same fields are of something else, so that ids differ.

    Those are runs with a running mean of the weights, which began at the weights after the first step, and detectors in
    reduced precision, which were evaluated in it; now the mean begins at the initial weights, and all evaluation is in
    float32.
    """
    reduced = recipe.task == "detection" and recipe.precision == "bfloat16"
    return 2 if recipe.ema is not None or reduced else 1


def init_seed(fingerprint: str, network: str, seed: int) -> int:
    """Seeds a network's initial weights, whatever role it has."""
    return int(digest([fingerprint, network, seed]), 16) % 2**63
