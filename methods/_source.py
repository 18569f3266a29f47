"""The code of a method: a hash of the source that computes its losses."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
IGNORED = ("ctx", "kind", "type_comment", "type_ignores", "type_params")
"""Fields of syntax trees that say nothing about what code does, or that some versions of Python lack."""


def source_hash(modules: tuple[str, ...], folder: Path = FOLDER) -> str:
    """16 hex digits of the sha256 of modules and of what they import from their folder.

    Comments, docstrings and layout do not count, nor does the version of Python.

    Args:
        modules: names of files in `folder`, without `.py`.
        folder: of the methods.
    """
    hashes: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in hashes:
            hashes[name], imported = _module(folder / f"{name}.py")
            waiting += [each for each in imported if (folder / f"{each}.py").exists()]
    return _sha256(str(sorted(hashes.items())))[:16]


@cache
def _module(file: Path) -> tuple[str, tuple[str, ...]]:
    """The hash of a module, and the modules beside it that it imports. Read once: what runs is what was imported."""
    tree = ast.parse(file.read_bytes())
    return _sha256(_text(tree)), tuple(_imports(tree))


def _imports(tree: ast.Module) -> Iterator[str]:
    """Names of modules in the same folder: of `from .a import b` or `from . import a`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]


def _text(value: object) -> str:
    """A syntax tree in one line, without docstrings."""
    if isinstance(value, ast.AST):
        fields = {name: inner for name, inner in ast.iter_fields(value) if name not in IGNORED}
        if isinstance(value, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            fields["body"] = value.body[1:] if ast.get_docstring(value) is not None else value.body
        parts = (f"{name}={_text(inner)}" for name, inner in fields.items() if inner is not None and inner != [])
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return repr(value)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
