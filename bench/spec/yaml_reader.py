"""YAML text as plain data, within limits: no duplicate keys, no objects, nothing that grows while it is read."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ..text import one_line

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is four times as fast, and may be missing

MAX_VALUES = 200_000  # of a file, the values of an alias counted each time it is used
MAX_DEPTH = 100

EXPONENT = re.compile(r"[-+]?[\d.]+[eE][-+]?\d+")
OCTAL = re.compile(r"0[0-7_]+")

MERGE = "tag:yaml.org,2002:merge"


class YamlError(ValueError):
    """A text cannot be read; the message says why and at which line."""


def load(text: str) -> Any:
    """The value of one YAML document; None for an empty text.

    Raises:
        YamlError: not valid YAML, a key that appears twice, a value of Python's own types, or more than the limits.
    """
    try:
        _check_depth(text)
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _Checked().count(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise YamlError(f"not valid YAML: {one_line(str(error))}") from error
    except YamlError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # of numbers, dates and keys
        raise YamlError(f"holds a value that is no plain data: {error}") from error


def load_value(text: str) -> Any:
    """A value on a command line: as `load`, and numbers such as 1e-2, where YAML wants 1.0e-2.

    Raises:
        YamlError: as `load`.
    """
    value = load(text)
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _check_depth(text: str) -> None:
    """Refuse deep nesting by the parser's events: libyaml builds nodes by recursion, and a deep file crashes it."""
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise YamlError(f"line {_line_of(event.start_mark)}: nested more than {MAX_DEPTH} levels deep")


class _Checked:
    """Nodes of a document that were checked, with the number of values below each, aliases expanded."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.open: set[int] = set()

    def count(self, node: yaml.Node) -> int:
        """Values below and including `node`.

        Raises:
            YamlError: duplicate keys, a node that contains itself, or more than the limits.
        """
        if isinstance(node, yaml.ScalarNode):
            _refuse_misread(node)
            return 1
        if id(node) in self.counts:
            return self.counts[id(node)]
        if id(node) in self.open:
            raise YamlError(f"line {_line(node)}: holds a list or mapping that contains itself")
        self.open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _refuse_duplicates(node)
            inner = [part for pair in node.value for part in pair]
        else:
            inner = node.value
        total = 1 + sum(self.count(part) for part in inner)
        if total > MAX_VALUES:
            raise YamlError(f"line {_line(node)}: holds more than {MAX_VALUES} values, aliases counted in full")
        self.open.discard(id(node))
        self.counts[id(node)] = total
        return total


def _refuse_misread(node: yaml.ScalarNode) -> None:
    """Refuse what YAML 1.1 reads as something else than people write: 010 as 8, 1:30 as 90, 2020-01-01 as a date."""
    kind, text = node.tag.rpartition(":")[2], node.value.lstrip("+-")
    if kind == "timestamp":
        raise YamlError(f"line {_line(node)}: {node.value} would be read as a date; put it in quotes if it is a text")
    if kind in ("int", "float") and ":" in text:
        raise YamlError(
            f"line {_line(node)}: {node.value} would be read as a number to base 60; write a decimal number, or put it "
            "in quotes if it is a text"
        )
    if kind == "int" and OCTAL.fullmatch(text):
        raise YamlError(f"line {_line(node)}: {node.value} would be read to base 8; write it without leading zeros")


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    first: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
            continue
        if (known := first.get((key.tag, key.value))) is not None:
            raise YamlError(
                f"line {_line(key)}: {key.value} is given a second time, after line {known}; remove one of the two"
            )
        first[key.tag, key.value] = _line(key)


def _line(node: yaml.Node) -> int:
    return _line_of(node.start_mark)


def _line_of(mark: Any) -> int:
    """The line of a place in a file, from 1; nodes that are made without a file have none."""
    return 0 if mark is None else int(mark.line) + 1
