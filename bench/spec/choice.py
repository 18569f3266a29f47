"""Methods chosen on the command line: by name or file, with options, and sweeps over the values of an option."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..text import option_text, shortened
from . import yaml_reader
from .schema import flattened

COMMA = re.compile(r""",(?=(?:[^'"]|'[^']*'|"[^"]*")*$)""")
"""Between items: one outside of quotes."""

MAX_VARIANTS = 1000
"""Most variants of methods in one request."""


@dataclass(frozen=True)
class MethodChoice:
    """A method of a request.

    Attributes:
        method: its name, or a table's label.
        options: laid over those that a table has for it; those of a sum are `{summand: {option: value}}`.
        file: the user's file that has it; its name is then the file's.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None

    @property
    def suffix(self) -> str:
        """What tells it from other variants of the method: `:tau=1:weight=2`; empty without options."""
        return "".join(f":{name}={option_text(value)}" for name, value in flattened(self.options).items())


def parse_methods(given: str | Iterable[str | Path | MethodChoice] | None) -> tuple[MethodChoice, ...]:
    """`"kd,dist:tau=2:weight=1,./mine.py"` as three choices, a list of such texts likewise; a file ends in `.py`.

    A value with a comma is quoted: `sdd+kd:grids='1,2'`.

    Raises:
        SpecError: an option is not NAME=VALUE.
    """
    items = COMMA.split(given) if isinstance(given, str) else list(given or ())
    choices: list[MethodChoice] = []
    for item in items:
        if isinstance(item, MethodChoice):
            choices.append(item)
        elif text := str(item).strip():
            choices.append(_choice(text))
        elif len(items) > 1:
            raise SpecError(f"--methods {shortened(str(given), 200)}: a name is missing between two commas")
    return tuple(choices)


def parse_sweeps(given: str | Iterable[str] | None) -> tuple[MethodChoice, ...]:
    """`["dist.tau=1,2", "dist.weight=1,2"]` as four variants of dist: every combination of a method's values.

    Raises:
        SpecError: a sweep is not METHOD.OPTION=VALUE,VALUE, names an option twice, or there are too many variants.
    """
    values: dict[str, dict[str, list[Any]]] = {}
    for text in [given] if isinstance(given, str) else given or ():
        match = re.fullmatch(r"\s*([^\s.=:]+)\.([^\s=:]+)\s*=(.+)", text)
        if match is None:
            raise SpecError(f"--sweep {shortened(text, 200)}: write METHOD.OPTION=VALUE,VALUE, as in dist.tau=1,2,4")
        method, option, listed = match.groups()
        options = values.setdefault(method, {})
        if option in options:
            raise SpecError(f"--sweep {method}.{option} is given twice; put all values into one")
        options[option] = [_value(f"--sweep {text}", each) for each in COMMA.split(listed)]
    choices = []
    for method, options in values.items():
        for combination in itertools.islice(itertools.product(*options.values()), MAX_VARIANTS + 1):
            choices.append(MethodChoice(method, _nested(dict(zip(options, combination, strict=True)))))
    if len(choices) > MAX_VARIANTS:
        raise SpecError(f"--sweep: more than {MAX_VARIANTS} variants; sweep fewer values at a time")
    return tuple(choices)


def _choice(text: str) -> MethodChoice:
    name, *parts = _parts(text)
    options: dict[str, Any] = {}
    for part in parts:
        option, equals, value = part.partition("=")
        if not equals or not option.strip() or not value.strip():
            raise SpecError(f"--methods {shortened(text, 200)}: write METHOD:OPTION=VALUE, as in dist:tau=2:weight=1")
        if option in options:
            raise SpecError(f"--methods {shortened(text, 200)}: {option} is given twice; remove one")
        options[option.strip()] = _value(f"--methods {text}", value)
    if name.endswith(".py"):
        path = Path(name).expanduser()
        return MethodChoice(path.stem, _nested(options), path)
    return MethodChoice(name, _nested(options))


def _parts(text: str) -> list[str]:
    """The method and its options; the colon of a drive's letter is part of a file."""
    return [part.strip() for part in re.split(r":(?![\\/])", text)]


def _value(where: str, text: str) -> Any:
    try:
        return yaml_reader.load_value(text)
    except yaml_reader.YamlError as error:
        raise SpecError(f"{shortened(where, 200)}: the value is {error}") from error


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """`{"dist.tau": 1}` -> `{"dist": {"tau": 1}}`: an option of a summand."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        summand, dot, option = name.partition(".")
        if dot:
            nested.setdefault(summand, {})[option] = value
        else:
            nested[name] = value
    return nested
