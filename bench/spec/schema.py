"""YAML as validated models: data only, never executed, every problem named by file and field."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, AliasGenerator, BaseModel, ConfigDict, ValidationError

from kdbench.datasets._files import read_bytes

from ..errors import SpecError, unknown
from . import yaml_reader
from .yaml_reader import YamlError

Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 4 * 2**20  # of a YAML or CSV file

RENAMED = {"optimiser": "optimizer", "against": "gain_over"}
"""Fields by the names that they had before; YAML files, `--set` and result rows with these are still read."""


def _names(field: str) -> str | AliasChoices:
    """The keys that a field is read from: its name first, then its earlier ones."""
    earlier = [old for old, new in RENAMED.items() if new == field]
    return AliasChoices(field, *earlier) if earlier else field


class Spec(BaseModel):
    """A frozen model that refuses unknown keys, silent conversions such as "3" for 3, and NaN."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        alias_generator=AliasGenerator(validation_alias=_names),
    )


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, dicts inside dicts included."""
    both = {key: (below[key], above[key]) for key in below.keys() & above.keys()}
    inner = {k: merged(b, a) for k, (b, a) in both.items() if isinstance(b, dict) and isinstance(a, dict)}
    return below | above | inner


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A record with the fields of inner records as `outer.inner`."""
    fields: dict[str, Any] = {}
    for name, value in record.items():
        fields |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return fields


def digest(value: Any) -> str:
    """16 hex digits that depend on nothing but the JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def canonical_json(value: Any) -> str:
    """One text for equal JSON values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, read as data only.

    Raises:
        SpecError: it cannot be read, is not valid YAML, has a key twice, or is not a mapping.
    """
    try:
        values = _parsed(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except YamlError as error:
        raise SpecError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not a text file in UTF-8: {error.reason} at byte {error.start}") from error
    if not isinstance(values, dict):
        raise SpecError(f"{path}: expected a mapping of fields, found {type(values).__name__}")
    return with_current_names(copy.deepcopy(values), str(path))  # type: ignore[no-any-return]


def with_current_names(value: Any, source: str) -> Any:
    """`value` with its renamed keys under their current names, at every depth; each is reported once.

    Keys of `options` and `mini_options` are a method's and stay.

    Raises:
        SpecError: a mapping has a key under both names.
    """
    if isinstance(value, list):
        return [with_current_names(inner, source) for inner in value]
    if not isinstance(value, dict):
        return value
    for old in RENAMED.keys() & value.keys():
        if RENAMED[old] in value:
            raise SpecError(f"{source}: {old} is the earlier name of {RENAMED[old]}; remove one of the two")
    return {
        current_name(key, source): inner if key in ("options", "mini_options") else with_current_names(inner, source)
        for key, inner in value.items()
    }


@cache
def current_name(key: str, source: str) -> str:
    """The name that a key has today; for an earlier one, a notice is printed once."""
    if key not in RENAMED:
        return key
    print(f"{source}: {key} is now called {RENAMED[key]}; rename it", file=sys.stderr)
    return RENAMED[key]


@lru_cache(maxsize=64)
def _parsed(path: Path, changed: int) -> Any:
    """A file as YAML; asked for again only when it `changed`. Recipes are read once a cell, and YAML is slow."""
    return yaml_reader.load(read_bytes(path, MAX_BYTES).decode("utf-8-sig"))


def parse(model: type[Model], values: dict[str, Any], path: Path | str) -> Model:
    """`values` as `model`; every problem is named by file, or where else they are from, and field.

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
    place, holder = _place(model, problem["loc"])
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if problem["type"] != "extra_forbidden":
        text = str(problem["msg"]).removeprefix("Value error, ")
        return f"{where}: {text}" if where else text
    return f"{where}: {unknown('key', str(place[-1]), holder.model_fields)}"


def _place(model: type[BaseModel], location: tuple[Any, ...]) -> tuple[list[Any], type[BaseModel]]:
    """Where pydantic's `location` is in the file, and the model that holds its last part.

    Lists and optional fields are followed; the tag by which pydantic names a union's member is not in the file.
    """
    place: list[Any] = []
    choices: list[type[Spec]] = []
    for i, part in enumerate(location):
        if tagged := [m for m in choices if "kind" in m.model_fields and m.model_fields["kind"].default == part]:
            model, choices = tagged[0], []
            continue
        place.append(part)
        if isinstance(part, str) and part in model.model_fields:
            annotation = str(model.model_fields[part].annotation)
            choices = [m for m in Spec.__subclasses__() if f"{m.__module__}.{m.__name__}" in annotation]
            if choices and i + 1 < len(location):
                model = choices[0]
    return place, model
