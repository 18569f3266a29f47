"""What others measured: `results/reruns/*.csv`, one number a line, and the options that authors set for each pair."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from . import csv_file
from .reported import Name, Percent

RERUNS = Path(str(files("kdbench.results"))) / "reruns"
SETTINGS = Path(str(files("kdbench.results"))) / "settings.csv"


class Rerun(BaseModel):
    """One published number of a run that is not in the paper's own table, in percent.

    Attributes:
        dataset: by our name.
        teacher: by the name that files of reported numbers have for it.
        teacher_value: score of the teacher that was used; None for the paper's, where its score is not stated again.
        student: likewise.
        method: likewise.
        metric: "top1", "miou" or "ap".
        value: percent.
        selection: epoch; empty where the source does not say.
        by: "independent" for somebody else's run of the authors' code or of a reimplementation, "authors" for the logs
            that they released.
        code: repository that was run.
        source: where the number stands.
        differs: what differs from the paper's setting, beside the teacher's score; empty for nothing.
        note: anything else.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: Name
    teacher: Name
    teacher_value: Percent | None
    student: Name
    method: Name
    metric: Name
    value: Percent
    selection: Literal["", "last", "best"]
    by: Literal["independent", "authors"]
    code: Name
    source: Name
    differs: str
    note: str


class Setting(BaseModel):
    """The options that authors set for one pair, as they name them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Name
    teacher: Name
    student: Name
    options: Name
    source: Name


def rerun_names() -> list[str]:
    return sorted(path.stem for path in RERUNS.glob("*.csv"))


def load_reruns(path: Path) -> list[Rerun]:
    """The lines of a file; several runs may have the same value.

    Raises:
        SpecError: the file cannot be read, or a line breaks the schema; the message names file and line.
    """
    return csv_file.read(path, Rerun, ("teacher_value",))


@cache
def all_reruns() -> tuple[Rerun, ...]:
    """The lines of every file."""
    return tuple(rerun for name in rerun_names() for rerun in load_reruns(RERUNS / f"{name}.csv"))


@cache
def all_settings() -> tuple[Setting, ...]:
    return tuple(csv_file.read(SETTINGS, Setting))


def tuning(settings: Iterable[Setting]) -> str:
    """`tuned per pair` or `one setting`: whether one method's options differ between pairs; empty for less than two.

    MobileNet and ShuffleNet students have a lower learning rate in every method's recipe, so theirs are compared among
    themselves.
    """
    seen: dict[str, set[str]] = {}
    pairs = set()
    for setting in settings:
        pairs.add((setting.teacher, setting.student))
        parts = setting.options.split("; ")
        rates = [part for part in parts if part.startswith("LR=")]
        others = [part for part in parts if part not in rates]
        light = setting.student.startswith(("mobilenet", "shufflenet"))
        seen.setdefault("options", set()).add("; ".join(others))
        seen.setdefault(f"rate, light={light}", set()).add("; ".join(rates))
    if len(pairs) < 2:
        return ""
    return "tuned per pair" if any(len(values) > 1 for values in seen.values()) else "one setting"
