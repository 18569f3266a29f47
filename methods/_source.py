"""The code of a method: a hash of the source that computes its losses."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
PACKAGE = "kdbench.methods."
IGNORED = ("ctx", "kind", "type_comment", "type_ignores", "type_params")
"""Fields of syntax trees that say nothing about what code does, or that some versions of Python lack."""


def source_hash(modules: tuple[str, ...], files: tuple[Path, ...] = (), folder: Path = FOLDER) -> str:
    """16 hex digits of the sha256 of modules and files, and of what they import from the folder and from beside them.

    Comments, docstrings and layout do not count, nor does the version of Python.

    Args:
        modules: names of files in `folder`, without `.py`.
        files: that are elsewhere.
        folder: of the methods.
    """
    hashes: dict[str, str] = {}
    waiting = [*modules, *_outside(files, hashes)]
    while waiting:
        name = waiting.pop()
        if name not in hashes:
            hashes[name], imported = _module(folder / f"{name}.py")
            waiting += [each for each in imported if (folder / f"{each}.py").exists()]
    return _sha256(str(sorted(hashes.items())))[:16]


def _outside(files: tuple[Path, ...], hashes: dict[str, str]) -> list[str]:
    """Add the hashes of files and of those beside them that they import; returns the methods that they import."""
    modules: list[str] = []
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if f"./{file.stem}" in hashes:
            continue
        hashes[f"./{file.stem}"], imported = _module(file)
        for name in imported:
            if name.startswith(PACKAGE):
                modules.append(name.removeprefix(PACKAGE).split(".")[0])
            elif (beside := file.with_name(f"{name.split('.')[0]}.py")).exists():
                waiting.append(beside)
    return modules


@cache
def _module(file: Path) -> tuple[str, tuple[str, ...]]:
    """The hash of a module, and the modules beside it that it imports. Read once: what runs is what was imported."""
    tree = ast.parse(file.read_bytes())
    return _sha256(_text(tree)), tuple(_imports(tree))


def _imports(tree: ast.Module) -> Iterator[str]:
    """Names of modules: of `from .a import b`, `from . import a`, and as they are written of absolute imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from [PACKAGE + alias.name for alias in node.names] if node.module == PACKAGE[:-1] else [node.module]


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
