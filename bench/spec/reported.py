"""Reported numbers: `results/reported/*.csv`, one number a line, each with its source."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import SpecError, unknown
from . import csv_file

REPORTED = Path(str(files("kdbench.results"))) / "reported"

Name = Annotated[str, Field(min_length=1)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Reported(BaseModel):
    """One reported number, in percent. An empty `value` is a cell that the paper leaves blank."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    paper: Name
    table: Name
    dataset: Name
    strategy: str  # the paper's name for a recipe, where one table has several
    teacher: str
    teacher_value: Percent | None
    student: str  # empty for a row about a teacher alone
    student_value: Percent | None
    method: Name
    metric: Name
    value: Percent | None
    std: Annotated[float, Field(ge=0)] | None
    selection: Literal["", "last", "best"]  # epoch that the paper reports; empty where it does not say
    source: Name
    evidence: Name
    note: str

    @property
    def key(self) -> tuple[str, ...]:
        """Unique within a file."""
        names = (self.paper, self.table, self.dataset, self.strategy, self.teacher, self.student)
        return (*names, self.method, self.metric)


NUMBERS = ("teacher_value", "student_value", "value", "std")


def reported_names() -> list[str]:
    return sorted(path.stem for path in REPORTED.glob("*.csv"))


def load_reported(file: str | Path) -> list[Reported]:
    """The numbers of `results/reported/<file>.csv`, or of the CSV file at a path.

    Raises:
        SpecError: no such file, or a line that breaks the schema; the message names file and line.
    """
    path = Path(file) if str(file).endswith(".csv") else REPORTED / f"{file}.csv"
    if not path.exists():
        raise unknown("file of reported numbers", str(file), reported_names())
    return csv_file.read(path, Reported, NUMBERS, lambda row: row.key)


def find(
    rows: Iterable[Reported],
    *,
    table: str,
    teacher: str,
    student: str,
    method: str,
    metric: str,
    strategy: str | None = None,
) -> Reported | None:
    """The reported number of a cell; None where there is none or it is blank.

    Raises:
        SpecError: the cell is reported under several strategies and none is named.
    """
    names = (table, teacher, student, method, metric)
    matches = [
        row
        for row in rows
        if (row.table, row.teacher, row.student, row.method, row.metric) == names
        and row.value is not None
        and strategy in (None, row.strategy)
    ]
    if len(matches) > 1:
        strategies = ", ".join(repr(row.strategy) for row in matches)
        raise SpecError(
            f"{teacher} -> {student} {method} of {matches[0].paper} {table} is reported under the strategies "
            f"{strategies}; name one"
        )
    return matches[0] if matches else None


def student_alone(
    rows: Iterable[Reported], *, table: str, teacher: str, student: str, metric: str, strategy: str | None = None
) -> Reported | None:
    """The reported number of the student without a teacher (`student_value`), as a row of the method `none`."""
    for row in rows:
        same = (row.table, row.teacher, row.student, row.metric) == (table, teacher, student, metric)
        if same and row.student_value is not None and strategy in (None, row.strategy):
            note = row.note if "student_value" in row.note else ""  # others are about the distilled number
            update = {"method": "none", "value": row.student_value, "std": None, "note": note}
            return row.model_copy(update=update)
    return None
