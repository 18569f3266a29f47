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
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in files:
            files[name] = folder / f"{name}.py"
            waiting += [each for each in _imports(files[name]) if (folder / f"{each}.py").exists()]
    texts = [f"{name}:{_canonical(files[name])}" for name in sorted(files)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _imports(file: Path) -> Iterator[str]:
    """Names of modules beside a file that it imports: by `from .a import b` or `from . import a`."""
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]


def _canonical(file: Path) -> str:
    return _text(_tree(file))


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


def _tree(file: Path) -> ast.Module:
    return _parsed(file, file.stat().st_mtime_ns)


@cache
def _parsed(file: Path, _changed: int) -> ast.Module:
    return ast.parse(file.read_bytes())
