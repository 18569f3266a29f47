"""What a table and a run are. Everything here is data: validated, hashable, never executed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from .errors import unknown
from .models import Spec, digest, merged, parse, read_yaml
from .recipe import Positive, Recipe, Task

TABLES = Path(__file__).parent / "tables"

Scale = Literal["full", "mini"]
Selection = Literal["last", "best", "mean_last10"]


class MethodEntry(Spec):
    """One method of a table.

    `reported` is the name the reported CSV gives it, where that is not `method`; `differs` lists what in our
    arrangement is known not to be the paper's, which makes the cell not comparable; `note` is shown as it stands.
    """

    method: str
    options: dict[str, Any] = {}
    mini_options: dict[str, Any] = {}  # laid over `options` at mini scale: our choice, never the paper's
    mini_skip: str = ""  # why it is left out at mini scale
    base_recipe: str | None = None  # in place of the pair's and the table's full recipe
    reported: str | None = None
    against: str | None = None  # label of the entry that this one adds to: its gain over that is shown as well
    label: str | None = None  # how tables and plots call it, where one method stands in several forms
    differs: tuple[str, ...] = ()
    note: str = ""

    @property
    def shown(self) -> str:
        return self.label or self.method

    def skipped_at(self, scale: Scale) -> str:
        """Why this entry is left out at `scale`; empty when it is not."""
        return self.mini_skip if scale == "mini" else ""

    def options_at(self, scale: Scale) -> dict[str, Any]:
        """The options this entry sets at `scale`, the method's own defaults not yet included."""
        return merged(self.options, self.mini_options) if scale == "mini" else self.options


class Networks(Spec):
    teacher: str
    student: str


class Pair(Spec):
    """One teacher-student pair under the names of the reported CSV.

    `networks` names what runs at full scale where the CSV's names are another network's here (CIFAR's resnet50), or
    where detectron2 has the paper's detector (networks of the pair's own names stand in if it is not installed), and
    `mini` the small networks that stand in at mini scale.
    """

    teacher: str
    student: str
    networks: Networks | None = None
    mini: Networks | None = None
    methods: tuple[MethodEntry, ...] = ()  # the table's, when empty
    strategy: str | None = None  # the reported CSV's, where one table has several
    base_recipe: str | None = None  # in place of the table's full recipe
    base_teacher_recipe: str | None = None  # in place of the table's full teacher recipe
    recipe: dict[str, Any] = {}  # fields of the full recipe that this pair changes
    teacher_recipe: dict[str, Any] = {}  # likewise of the full teacher recipe
    data: dict[str, Any] = {}  # options of the data set at full scale, such as fraction: 0.25
    mini_data: dict[str, Any] = {}  # likewise at mini scale
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


class Unreachable(Spec):
    """Reported rows that no run of ours stands for, and why; a field that is left out fits every row."""

    reason: str
    method: str | None = None
    teacher: str | None = None
    student: str | None = None


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
    reported: tuple[ReportedTable, ...] = ()
    unreachable: tuple[Unreachable, ...] = ()
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
            if bare := [entry.shown for entry in entries if entry.base_recipe and not entry.mini_skip]:
                raise ValueError(
                    f"pairs[{i}]: {', '.join(bare)} has a base_recipe, and mini has one recipe; add mini_skip"
                )
            if doubled := {label for label in labels if labels.count(label) > 1}:
                raise ValueError(f"pairs[{i}]: {', '.join(sorted(doubled))} stands twice; give one a label")
            for entry in entries:
                if entry.against is not None and entry.against not in set(labels) - {entry.shown}:
                    raise ValueError(f"pairs[{i}]: {entry.shown} is set against {entry.against!r}, which is no entry")
            if entries and not any(entry.method == "none" for entry in entries):
                raise ValueError(f"pairs[{i}]: add the method 'none', gains are quoted against our own student alone")
        return self

    def entries(self, pair: Pair) -> tuple[MethodEntry, ...]:
        return pair.methods or self.methods


class Data(Spec):
    """A data set as a run sees it; where it lies on disk is no part of it.

    `options` make a variant of it, such as `fraction: 0.25`; everything else describes the set as a whole.
    """

    name: str
    fingerprint: str
    train_images: int
    val_images: int
    classes: int
    options: dict[str, Any] = {}

    @property
    def shown(self) -> str:
        return " ".join([self.name, *(f"{name}={value}" for name, value in sorted(self.options.items()))])


class Run(Spec):
    """One training: the unit of work, identified by the hash of everything that determines its numbers.

    A frozen teacher is itself a run (of the method `none`), or a checkpoint file known by its sha256. An online teacher
    is trained beside its student and is a network's name.
    """

    version: int = 1
    task: Task
    scale: Scale
    data: Data
    student: str
    teacher: Run | None = None
    teacher_file: str | None = None  # sha256 of a checkpoint that stands in for the teacher run's own
    online_teacher: str | None = None
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
        return init_seed(self.data.fingerprint, self.student, self.seed)

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
        source = f"{self.teacher_network} -> " if self.teacher_network else ""
        variant = " ".join(f"{name}={value} " for name, value in sorted(self.data.options.items()))
        return f"{source}{self.student} {self.method} {variant}seed {self.seed}"

    @property
    def teacher_network(self) -> str | None:
        return self.teacher.student if self.teacher else self.online_teacher


def init_seed(fingerprint: str, network: str, seed: int) -> int:
    """Seeds a network's initial weights, whatever role it has."""
    return int(digest([fingerprint, network, seed]), 16) % 2**63


def table_names() -> list[str]:
    return sorted(str(path.relative_to(TABLES).with_suffix("")) for path in TABLES.rglob("*.yaml"))


def load_table(name: str) -> Table:
    """The table `paper/dataset`, or one in a YAML file given by its path."""
    path = Path(name) if name.endswith(".yaml") else TABLES / f"{name}.yaml"
    if not path.exists():
        raise unknown("table", name, table_names())
    return parse(Table, {"name": str(path.stem if name.endswith(".yaml") else name)} | read_yaml(path), path)
