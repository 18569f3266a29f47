"""What a recipe, a table and a run are. Everything here is data: validated, hashable, never executed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import SpecError, unknown

HERE = Path(__file__).parent
TABLES = HERE / "tables"
RECIPES = HERE / "recipes"

Task = Literal["classification", "detection", "segmentation"]
Scale = Literal["full", "mini"]
Selection = Literal["last", "best", "mean_last10"]
Positive = Annotated[int, Field(gt=0)]
Model = TypeVar("Model", bound=BaseModel)


class Spec(BaseModel):
    """A frozen model that refuses unknown keys, silent conversions such as "3" for 3, and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Image(Spec):
    """How a detection image is brought to size, in pixels: shorter side at `shorter` unless longer exceeds `longer`."""

    shorter: Positive
    longer: Positive
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5


class Recipe(Spec):
    """How a network is trained: everything that moves the numbers besides data, networks and method."""

    name: str
    source: str
    task: Task
    epochs: Positive
    max_steps: Positive | None = None  # stop early; a run shortened so is never comparable with a paper
    batch_size: Positive  # global: over all devices
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # sgd
    nesterov: bool = False  # sgd
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Positive, ...] = ()  # epochs
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_factor: Annotated[float, Field(gt=0, le=1)] = 0.001
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    init: Literal["imagenet", "random"]  # imagenet: backbone weights, stem and first stage frozen, BatchNorm fixed
    image: Image
    eval_every: Positive = 1  # epochs; the last is always evaluated

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(milestone >= self.epochs for milestone in self.milestones):
            raise ValueError(f"milestones {list(self.milestones)} must lie before the last of {self.epochs} epochs")
        if self.image.shorter > self.image.longer:
            raise ValueError(f"image.shorter {self.image.shorter} is above image.longer {self.image.longer}")
        return self


class MethodEntry(Spec):
    """One method of a table.

    `reported` is the name the reported CSV gives it, where that is not `method`; `differs` lists what in our
    arrangement is known not to be the paper's, which makes the cell not comparable; `note` is shown as it stands.
    """

    method: str
    options: dict[str, Any] = {}
    mini_options: dict[str, Any] = {}  # laid over `options` at mini scale: our choice, never the paper's
    reported: str | None = None
    label: str | None = None  # how tables and plots call it, where one method stands in several forms
    differs: tuple[str, ...] = ()
    note: str = ""

    @property
    def shown(self) -> str:
        return self.label or self.method

    def options_at(self, scale: Scale) -> dict[str, Any]:
        """The options this entry sets at `scale`, the method's own defaults not yet included."""
        return merged(self.options, self.mini_options) if scale == "mini" else self.options


class MiniPair(Spec):
    teacher: str
    student: str


class Pair(Spec):
    """One teacher-student pair under the names of the reported CSV; `mini` names the small networks that stand in."""

    teacher: str
    student: str
    mini: MiniPair | None = None
    methods: tuple[MethodEntry, ...] = ()  # the table's, when empty
    recipe: dict[str, Any] = {}  # fields of the full recipe that this pair changes
    teacher_recipe: dict[str, Any] = {}  # likewise of the full teacher recipe
    skip: str = ""  # why the full-scale pair cannot be run
    note: str = ""


class ByScale(Spec):
    full: str
    mini: str


class DataSize(Spec):
    """What the paper's data set holds; anything else is not comparable."""

    train_images: Positive
    val_images: Positive
    classes: Positive


class ReportedTable(Spec):
    """Rows of `results/reported/<file>.csv` with this `table`; the first that names a cell's method wins."""

    file: str
    table: str


class Table(Spec):
    """One table of a paper."""

    name: str
    paper: str
    title: str
    citation: str
    task: Task
    dataset: ByScale
    data_size: DataSize
    metric: str
    selection: Selection = "last"
    recipe: ByScale
    teacher_recipe: ByScale
    reported: tuple[ReportedTable, ...]
    pairs: Annotated[tuple[Pair, ...], Field(min_length=1)]
    methods: tuple[MethodEntry, ...] = ()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for i, pair in enumerate(self.pairs):
            entries = self.entries(pair)
            if not entries and not pair.skip:
                raise ValueError(f"pairs[{i}] ({pair.teacher} -> {pair.student}) has no methods")
            labels = [entry.shown for entry in entries]
            if doubled := {label for label in labels if labels.count(label) > 1}:
                raise ValueError(f"pairs[{i}]: {', '.join(sorted(doubled))} stands twice; give one a label")
            if entries and not any(entry.method == "none" for entry in entries):
                raise ValueError(f"pairs[{i}]: add the method 'none', gains are quoted against our own student alone")
        return self

    def entries(self, pair: Pair) -> tuple[MethodEntry, ...]:
        return pair.methods or self.methods


class Data(Spec):
    """A data set as a run sees it; where it lies on disk is no part of it."""

    name: str
    fingerprint: str
    train_images: int
    val_images: int
    classes: int


class Run(Spec):
    """One training: the unit of work, identified by the hash of everything that determines its numbers.

    A teacher is itself a run (of the method `none`), or a checkpoint file known by its sha256.
    """

    version: int = 1
    task: Task
    scale: Scale
    data: Data
    student: str
    teacher: Run | None = None
    teacher_file: str | None = None  # sha256 of a checkpoint that stands in for the teacher run's own
    method: str
    options: dict[str, Any]
    recipe: Recipe
    seed: int

    @cached_property
    def id(self) -> str:
        """16 hex digits of the sha256 of the canonical JSON of this spec; a recipe's name and source do not count."""
        prose = {"name", "source"}
        return digest(self.model_dump(mode="json", exclude={"recipe": prose, "teacher": {"recipe": prose}}))

    @cached_property
    def init_seed(self) -> int:
        """Seeds initial weights; the same for all methods and teachers of a student, so comparisons are paired."""
        return int(digest([self.data.fingerprint, self.student, self.seed]), 16) % 2**63

    @cached_property
    def data_seed(self) -> int:
        """Seeds data order and augmentation; the same for all networks and methods."""
        return int(digest([self.data.fingerprint, "data", self.seed]), 16) % 2**63

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy that works out its own identity: pydantic's would keep the hashes of the original."""
        copied = super().model_copy(update=update, deep=deep)
        for cached in ("id", "init_seed", "data_seed"):
            copied.__dict__.pop(cached, None)
        return copied

    @property
    def shown(self) -> str:
        source = f"{self.teacher.student} -> " if self.teacher else ""
        return f"{source}{self.student} {self.method} seed {self.seed}"


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, dicts inside dicts included."""
    both = {key: (below[key], above[key]) for key in below.keys() & above.keys()}
    inner = {k: merged(b, a) for k, (b, a) in both.items() if isinstance(b, dict) and isinstance(a, dict)}
    return below | above | inner


def digest(value: Any) -> str:
    """16 hex digits that depend on nothing but the JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def table_names() -> list[str]:
    return sorted(str(path.relative_to(TABLES).with_suffix("")) for path in TABLES.rglob("*.yaml"))


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_table(name: str) -> Table:
    """The table `paper/dataset`, or one in a YAML file given by its path."""
    path = Path(name) if name.endswith(".yaml") else TABLES / f"{name}.yaml"
    if not path.exists():
        raise unknown("table", name, table_names())
    return parse(Table, {"name": str(path.stem if name.endswith(".yaml") else name)} | read_yaml(path), path)


def load_recipe(name: str, changes: dict[str, Any] | None = None) -> Recipe:
    """The recipe of that name, with fields in `changes` laid over it (`image.shorter` reaches inside)."""
    path = RECIPES / f"{name}.yaml"
    if not path.exists():
        raise unknown("recipe", name, recipe_names())
    values = {"name": name} | read_yaml(path)
    for place, value in (changes or {}).items():
        field, *inner = place.split(".")
        if field not in Recipe.model_fields:
            raise unknown("recipe field", field, Recipe.model_fields)
        for part in reversed(inner):
            value = {part: value}
        values = merged(values, {field: value})
    return parse(Recipe, values, path)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, read as data only.

    Raises:
        SpecError: it cannot be read, is not valid YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise SpecError(f"{path}: expected a mapping of fields, found {type(values).__name__}")
    return values


def parse(model: type[Model], values: dict[str, Any], path: Path) -> Model:
    """`values` as `model`; every problem is named by file and field.

    Raises:
        SpecError: an unknown key (the nearest is suggested), a wrong type, a missing or impossible value.
    """
    try:
        text = json.dumps(values)
        if places := list(_not_finite(values)):
            raise SpecError(f"{path}: {'; '.join(f'{place}: must be a finite number' for place in places)}")
        return model.model_validate_json(text)
    except SpecError:
        raise
    except ValidationError as error:
        problems = "; ".join(_problem(model, problem) for problem in error.errors())
        raise SpecError(f"{path}: {problems}") from error
    except (TypeError, ValueError) as error:
        raise SpecError(f"{path}: holds a value that is no plain data: {error}") from error


def _not_finite(value: Any, where: str = "") -> Iterator[str]:
    """The place of every NaN and infinity in `value`; options hold whatever a method likes, so no type refuses them."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where.lstrip(".")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _not_finite(inner, f"{where}[{i}]")


def _problem(model: type[BaseModel], problem: Any) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    if problem["type"] != "extra_forbidden":
        text = str(problem["msg"]).removeprefix("Value error, ")
        return f"{where}: {text}" if where else text
    fields = _model_at(model, problem["loc"][:-1]).model_fields
    return f"{where}: {unknown('key', str(problem['loc'][-1]), fields)}"


def _model_at(model: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel]:
    """The model that holds the field at `path`, following lists and optional fields."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            annotation = str(model.model_fields[part].annotation)
            inner = [m for m in Spec.__subclasses__() if f"{m.__module__}.{m.__name__}" in annotation]
            model = inner[0] if inner else model
    return model
