"""A table of a paper as data: pairs, methods, recipes and the reported numbers they are set beside."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import Field, PrivateAttr, model_validator

from ..errors import unknown
from .own_table import completed
from .recipe import Positive
from .scale import Scale
from .schema import Spec, merged, parse, read_yaml

TABLES = Path(__file__).parents[1] / "tables"

Selection = Literal["last", "best", "mean_last10"]


class MethodEntry(Spec):
    """One method of a table.

    `reported` is its name in the reported CSV, where that is not `method`; `differs` lists what is known to differ from
    the paper in our runs, which makes the cell not comparable; `note` is printed below the table.
    """

    method: str
    options: dict[str, Any] = {}
    mini_options: dict[str, Any] = {}  # override `options` at mini scale: our choice, never the paper's
    mini_skip: str = ""  # why it is left out at mini scale
    base_recipe: str | None = None  # in place of the pair's and the table's full recipe
    recipe: dict[str, Any] = {}  # fields of the full recipe that this entry changes, on top of the pair's
    reported: str | None = None
    gain_over: str | None = None  # label of the entry that this one builds on: its gain over that is reported too
    label: str | None = None  # its name in tables and plots, where one method has several entries
    control: bool = False  # in no paper: what a part of a method's recipe is worth without the method
    added: bool = False  # by a request, not by the paper: no reported number is about it
    differs: tuple[str, ...] = ()
    note: str = ""

    @property
    def display_name(self) -> str:
        return self.label or self.method

    def shares_recipe(self, other: MethodEntry) -> bool:
        """Whether two entries of a pair train under one recipe."""
        return (self.base_recipe, self.recipe) == (other.base_recipe, other.recipe)

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

    `networks` names what runs at full scale where the CSV's names mean other networks here (CIFAR's resnet50), or where
    detectron2 has the paper's detector (networks of the pair's own names are used instead if it is not installed);
    `mini` names the small networks that run at mini scale.
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
    added: bool = False  # by a request, not by the paper: no reported number is about it
    note: str = ""


class ByScale(Spec):
    full: str
    mini: str


class DataSize(Spec):
    """The size of the paper's data set; rows of another size are not comparable."""

    train_images: Positive
    val_images: Positive
    classes: Positive


class ReportedTable(Spec):
    """Rows of `results/reported/<file>.csv` with this `table`; the first that names a cell's method wins."""

    file: str
    table: str


class Unreachable(Spec):
    """Reported rows that no run of ours can reproduce, and why; a missing field matches every row."""

    reason: str
    method: str | None = None
    teacher: str | None = None
    student: str | None = None
    metric: str | None = None


class Table(Spec):
    """One table of a paper, or a user's own, which reports nothing and need not state the size of its data."""

    name: str
    paper: str
    title: str
    citation: str
    task: str
    dataset: ByScale
    data_size: DataSize | None = None
    metric: str
    selection: Selection = "last"
    recipe: ByScale
    teacher_recipe: ByScale
    reported: tuple[ReportedTable, ...] = ()
    unreachable: tuple[Unreachable, ...] = ()
    pairs: Annotated[tuple[Pair, ...], Field(min_length=1)]
    methods: tuple[MethodEntry, ...] = ()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)

    _file: str = PrivateAttr("")  # that a user's table was read from

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reported and self.data_size is None:
            raise ValueError("data_size is missing: a number that a paper reports is about data of one size")
        for i, pair in enumerate(self.pairs):
            entries = self.entries(pair)
            if not entries and not pair.skip:
                raise ValueError(f"pairs[{i}] ({pair.teacher} -> {pair.student}) has no methods")
            labels = [entry.display_name for entry in entries]
            own = [entry for entry in entries if entry.base_recipe or entry.recipe]
            if bare := [entry.display_name for entry in own if not entry.mini_skip]:
                raise ValueError(
                    f"pairs[{i}]: {', '.join(bare)} has a recipe of its own, and mini has one recipe; add mini_skip"
                )
            if doubled := {label for label in labels if labels.count(label) > 1}:
                raise ValueError(f"pairs[{i}]: {', '.join(sorted(doubled))} appears twice; give each its own label")
            for entry in entries:
                if entry.gain_over is not None and entry.gain_over not in set(labels) - {entry.display_name}:
                    raise ValueError(
                        f"pairs[{i}]: {entry.display_name}: no other entry is labelled {entry.gain_over!r}"
                    )
            if entries and not any(entry.method == "none" for entry in entries):
                raise ValueError(f"pairs[{i}]: add the method 'none': gains are over our own student without a teacher")
        return self

    @property
    def file_stem(self) -> str:
        """The table's name as the beginning of a file's name: letters, digits and `.`, `-`, `_`, `+`."""
        return re.sub(r"[^\w.+-]+", "-", self.name).lstrip(".-")[:100] or "table"

    @property
    def argument(self) -> str:
        """The table as a command line names it, quoted where a shell needs it."""
        return shlex.quote(self._file or self.name)

    def run_command(self, scale: Scale) -> str:
        """What runs the table at a scale."""
        return f"kdbench run {self.argument} --scale {scale}"

    def entries(self, pair: Pair) -> tuple[MethodEntry, ...]:
        return pair.methods or self.methods


def parse_selection(text: str | None) -> Selection | None:
    """ "last", "best", "mean_last10" or None.

    Raises:
        SpecError: anything else.
    """
    if text is not None and text not in get_args(Selection):
        raise unknown("selection", text, get_args(Selection))
    return cast("Selection | None", text)


def table_names() -> list[str]:
    return sorted(str(path.relative_to(TABLES).with_suffix("")) for path in TABLES.rglob("*.yaml"))


def load_table(name: str) -> Table:
    """The table `paper/dataset`, or one in a YAML file given by its path, where much has a default (`own_table`).

    Raises:
        SpecError: no such table or file, or what is wrong in it.
    """
    if not _is_path(name):
        path = TABLES / f"{name}.yaml"
        if not path.exists():
            raise unknown("table", name, table_names(), ".yaml")
        return parse(Table, {"name": name} | read_yaml(path), path)
    path = Path(name).expanduser()
    table = parse(Table, completed(read_yaml(path), path, Table.model_fields), path)
    table._file = str(path)
    return table


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or name.startswith((".", "/", "~"))
