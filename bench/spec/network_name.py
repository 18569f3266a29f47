"""Names of networks that do not come with kdbench, and the users' files that have some of them.

`timm:convnext_atto`, `torchvision:regnet_y_400mf` and `net.py:build` name a source, a network in it and perhaps
options: `timm:vit_tiny_patch16_224:img_size=32:patch_size=4`. In a request a file is given by its path,
`./nets/net.py:build`; its networks are then known under the file's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from kdbench.methods._errors import MethodError
from kdbench.methods._outside import import_file
from kdbench.methods._source import source_hash

from ..errors import SpecError
from ..text import option_text, shortened
from . import yaml_reader

FILE_NAME = r"[\w.-]+\.py:"
"""Regular expression of the beginning of a file's network."""

_OUTSIDE = re.compile(r"(?:timm|torchvision|.+?\.py):(?![\\/])")
_FILE = re.compile(r"(?P<path>.+?\.py):(?P<rest>[^\\/].*)")
_OPTION = re.compile(r"(\w+)\s*=\s*(.+)", re.DOTALL)
_files: dict[str, Path] = {}


class NetworkName(NamedTuple):
    """A name in parts.

    Attributes:
        source: "timm", "torchvision" or a file's name.
        network: in that source: an architecture or a function.
        options: arguments of it, by name.
    """

    source: str
    network: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return ":".join(
            [self.source, self.network, *(f"{name}={option_text(value)}" for name, value in self.options.items())]
        )


def is_outside(text: str) -> bool:
    """Whether a text names a network of a library or of a user's file."""
    return _OUTSIDE.match(text.strip()) is not None


def is_complete(text: str) -> bool:
    """Whether a text is a network's name with a value for each of its options."""
    match = _OUTSIDE.match(text.strip())
    return match is not None and all("=" in part for part in _split(text.strip()[match.end() :])[1:])


@cache
def parsed(name: str) -> NetworkName:
    """A name in its parts.

    Raises:
        SpecError: it has none, an option is not NAME=VALUE, or one is given twice.
    """
    where = f"network {shortened(name, 200)}"
    source, _, rest = name.partition(":")
    network, *parts = [part.strip() for part in _split(rest)]
    if not network:
        raise SpecError(f"{where}: a name is missing behind {source}:, as in timm:convnext_atto or ./net.py:build")
    options: dict[str, Any] = {}
    for part in parts:
        match = _OPTION.fullmatch(part)
        if match is None:
            raise SpecError(f"{where}: write SOURCE:NETWORK:OPTION=VALUE, as in timm:vit_tiny_patch16_224:img_size=32")
        if match[1] in options:
            raise SpecError(f"{where}: {match[1]} is given twice; remove one")
        try:
            options[match[1]] = yaml_reader.load_value(match[2])
        except yaml_reader.YamlError as error:
            raise SpecError(f"{where}: the value of {match[1]} is {error}") from error
    return NetworkName(source.strip(), network, options)


def resolve(text: str) -> str:
    """The name of a network as a run has it; a file in it becomes known under its own name.

    Args:
        text: a network as a user gives it: of `networks.names()`, of a library, or `PATH.py:FUNCTION`.

    Raises:
        SpecError: the file does not exist, cannot be imported or has no such function, or the name has no parts.
    """
    text = text.strip()
    if match := _FILE.fullmatch(text):
        path = Path(match["path"]).expanduser()
        if match["path"] not in _files or path.exists():
            register(path)
        name = parsed(f"{path.name}:{match['rest']}")
        function_of(name)
        return str(name)
    if text.endswith(".py"):
        raise SpecError(f"network {text}: name the function that builds it, as in {text}:build")
    return str(parsed(text)) if is_outside(text) else text


def register(path: Path) -> str:
    """Make the networks of a user's file known; returns the file's name, which theirs begin with.

    Raises:
        SpecError: no such file, a name that no run can have, or another file of the same name.
    """
    path = path.resolve()
    if not path.is_file():
        raise SpecError(f"{path}: no such file; a network of your own is FILE.py:FUNCTION")
    if not re.fullmatch(FILE_NAME, f"{path.name}:"):
        raise SpecError(f"{path}: rename the file with letters, digits, `_`, `-` and `.` alone")
    if _files.get(path.name, path) != path:
        raise SpecError(f"{path}: {_files[path.name]} has networks under the name {path.name} already; rename one file")
    _module(path)
    _files[path.name] = path
    return path.name


def file_of(name: str) -> Path | None:
    """The registered file that has a network; None for networks of kdbench and of libraries."""
    return _files.get(name.partition(":")[0]) if is_in_file(name) else None


def module_of(name: NetworkName) -> ModuleType:
    """The module of a network in a user's file.

    Raises:
        SpecError: its file is not known here, or cannot be imported.
    """
    if name.source not in _files:
        raise SpecError(f"network {name}: {name.source} is not known here; give its path, as in ./{name}")
    return _module(_files[name.source])


def function_of(name: NetworkName) -> Any:
    """The function that builds a network of a user's file.

    Raises:
        SpecError: its file has no such function.
    """
    module = module_of(name)
    function = getattr(module, name.network, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        listed = f"; it has {', '.join(sorted(own))}" if own else ""
        raise SpecError(f"{_files[name.source]} has no function {name.network}{listed}")
    return function


def is_in_file(name: str) -> bool:
    """Whether a network is one of a user's file."""
    return re.match(FILE_NAME, name) is not None


def code(name: str) -> str | None:
    """Hash of the source of a file's network and of what it imports from beside it; None where it is not known here."""
    path = file_of(name)
    return source_hash((), (path,)) if path is not None else None


def _module(path: Path) -> ModuleType:
    try:
        return import_file(path, "kdbench_user_networks")
    except MethodError as error:
        raise SpecError(str(error)) from error


def _split(text: str) -> list[str]:
    """The parts between colons; those in brackets do not separate."""
    return re.split(r":(?![^\[{]*[\]}])", text)
