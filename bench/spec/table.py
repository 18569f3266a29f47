"""A table of a paper as data: pairs, methods, recipes and the reported numbers they are set beside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..errors import unknown
from .recipe import Positive, Task
from .scale import Scale
from .schema import Spec, merged, parse, read_yaml

TABLES = Path(__file__).parents[1] / "tables"

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


def table_names() -> list[str]:
    return sorted(str(path.relative_to(TABLES).with_suffix("")) for path in TABLES.rglob("*.yaml"))


def load_table(name: str) -> Table:
    """The table `paper/dataset`, or one in a YAML file given by its path."""
    path = Path(name) if name.endswith(".yaml") else TABLES / f"{name}.yaml"
    if not path.exists():
        raise unknown("table", name, table_names())
    return parse(Table, {"name": str(path.stem if name.endswith(".yaml") else name)} | read_yaml(path), path)
