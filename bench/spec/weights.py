"""Manifests of published weights: CSV files that list checkpoints, what they are and what is recorded of them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError

from ..errors import SpecError
from ..text import shortened
from . import csv_file
from .normalisation import Normalisation, parse_normalisation
from .reported import Percent
from .schema import Spec

Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$"), BeforeValidator(lambda text: str(text).lower())]
Selection = Literal["", "last", "best", "mean_last10"]

RECORDED = "recorded_"
"""Beginning of the columns of recorded values; the rest is a metric."""


def _number(text: Any) -> Any:
    """A whole number as CSV files have it; other text stays, and is refused."""
    return int(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,18}", text) else text


class WeightsFile(Spec):
    """One checkpoint: a line of a manifest, or the options of the command.

    Attributes:
        file: path; in a manifest relative to its folder.
        network: by the name of the papers' tables or of kdbench.
        dataset: that it was trained for; None for the data set of the first table with this network.
        sha256: of the file; None where it is not checked.
        bytes: size of the file; likewise.
        teacher: name of the teacher network; empty without one.
        method: "none" for a network that was trained without distillation.
        fills: which reported number the file is for, in words.
        source: where it was published.
        licence: under which.
        recorded: metrics that its source states, percent.
        selection: epoch of the weights; empty where the source does not say.
        normalisation: of the images that it was trained on; None for the data set's.
        note: anything else.
    """

    file: Annotated[str, Field(min_length=1, max_length=4000)]
    network: Name
    dataset: Name | None = None
    sha256: Sha256 | None = None
    bytes: Annotated[int, Field(ge=0), BeforeValidator(_number)] | None = None
    teacher: Annotated[str, Field(max_length=200)] = ""
    method: Name = "none"
    fills: Text = ""
    source: Text = ""
    licence: Annotated[str, Field(max_length=200)] = ""
    recorded: dict[str, Percent] = {}
    selection: Selection = ""
    normalisation: Annotated[Normalisation | None, BeforeValidator(parse_normalisation)] = None
    note: Text = ""


class Listed(NamedTuple):
    """A line of a manifest.

    Attributes:
        place: manifest and line, for messages.
        path: of the file.
        weights: the line.
    """

    place: str
    path: Path
    weights: WeightsFile


def load_manifest(path: Path, metrics: Collection[str]) -> list[Listed]:
    """The lines of a manifest.

    Its columns are the fields of `WeightsFile` in any order, with `recorded_<metric>` in place of `recorded`; only
    `file` and `network` are needed, and empty cells have the defaults. A licence in the parentheses of `source` is
    that of the file where there is no `licence`.

    Args:
        path: of a CSV file in UTF-8.
        metrics: those that may be recorded.

    Raises:
        SpecError: the file cannot be read, a column is unknown, or a line breaks the schema; names file, line and
            field.
    """
    listed: list[Listed] = []
    first: dict[tuple[str, str, str | None], int] = {}
    for number, values in _lines(path, metrics):
        weights = parse_weights(values, f"{path}:{number}: ")
        key = weights.file, weights.network, weights.dataset
        if key in first:
            raise SpecError(f"{path}:{number}: file: repeats line {first[key]}: {weights.file}")
        first[key] = number
        listed.append(Listed(f"{path}:{number}", path.parent / weights.file, weights))
    if not listed:
        raise SpecError(f"{path}: lists no file")
    return listed


def parse_weights(values: dict[str, Any], place: str = "", names: str = "") -> WeightsFile:
    """`values` as `WeightsFile`.

    Args:
        values: by field; `recorded_<metric>` for one of `recorded`. Empty strings and None have the default.
        place: beginning of a message.
        names: beginning of a field's name in messages, such as `--`.

    Raises:
        SpecError: names the field.
    """
    given = {name: value for name, value in values.items() if value not in ("", None)}
    recorded = {name: given.pop(name) for name in list(given) if name.startswith(RECORDED)}
    scores = {name.removeprefix(RECORDED): _decimal(text, place, names + name) for name, text in recorded.items()}
    try:
        weights = WeightsFile.model_validate(given | {"recorded": scores}, strict=False)
    except ValidationError as error:
        problems = "; ".join(f"{names}{_field(p['loc'], names)}: {_reason(p)}" for p in error.errors())
        raise SpecError(f"{place}{problems}") from error
    if weights.teacher and "method" not in given:
        raise SpecError(
            f"{place}{names}method: is needed beside {names}teacher; none for a student without distillation"
        )
    return weights if weights.licence else weights.model_copy(update={"licence": licence_in(weights.source)})


def licence_in(source: str) -> str:
    """The licence in the parentheses of a source, such as `name/repository@commit (MIT)`; empty where there is none."""
    match = re.search(r"\(([\w.+-]*(?:MIT|BSD|Apache|GPL|MPL|ISC|CC-BY|CC0|Unlicense)[\w.+-]*)\)", source)
    return match[1] if match else ""


def _lines(path: Path, metrics: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The cells of each line by column."""
    reader = csv.reader(io.StringIO(csv_file.read_text(path), newline=""), strict=True)
    try:
        columns = _columns(path, [column.strip() for column in next(reader, [])], metrics)
        for cells in reader:
            if not cells:
                continue  # a blank line
            if len(cells) != len(columns):
                raise SpecError(
                    f"{path}:{reader.line_num}: has {len(cells)} fields and the first line {len(columns)}; "
                    "is a comma not quoted?"
                )
            yield reader.line_num, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    except csv.Error as error:
        raise SpecError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error


def _columns(path: Path, columns: list[str], metrics: Collection[str]) -> list[str]:
    """The columns of a manifest, each of which is known and there once.

    Raises:
        SpecError: names the column and those that are known.
    """
    known = [name for name in WeightsFile.model_fields if name != "recorded"] + [RECORDED + key for key in metrics]
    for column in columns:
        if column not in known or columns.count(column) > 1:
            problem = "is there twice" if column in known else "is unknown"
            raise SpecError(f"{path}:1: column {shortened(column, 60)!r} {problem}; the columns are {', '.join(known)}")
    for column in ("file", "network"):
        if column not in columns:
            raise SpecError(f"{path}:1: column {column!r} is missing; the columns are {', '.join(known)}")
    return columns


def _decimal(value: Any, place: str, name: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise SpecError(f"{place}{name}: {shortened(str(value), 60)!r} is no number; give percent") from error


def _field(location: tuple[int | str, ...], names: str) -> str:
    """The column of a manifest, or the option."""
    return f"{RECORDED}{location[1]}" if location[0] == "recorded" and not names else str(location[0])


def _reason(problem: Any) -> str:
    value = shortened(repr(problem["input"]), 80)
    return f"{str(problem['msg']).removeprefix('Value error, ')} (found {value})"
