"""Distillation methods, one a file.

A file in this folder that defines a `Method` subclass is a method; its `name` is the file's. Files that start with an
underscore are shared by several methods. `a+b` composes: a
wrapper (a class with `wraps`) takes the next term as its base, anything else is summed. So `akd+cwd` is AKD around
CWD, `dist+mimic` is the sum of two losses, and `akd+maskd+box_l1` is a wrapped loss plus another.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Method, Setting

PUBLISHED_SUMS = ("cirkd+kd", "cwd+kd", "dist+mimic", "ifvd+kd", "skd+kd")
"""Sums that a paper's table names; any other sum of methods can be built as well."""


def names() -> list[str]:
    """Every method, wrapped methods and published sums included."""
    single = [name for name in _stems() if not _wraps(name)]
    wrapped = [f"{name}+{base}" for name in _stems() for base in _wraps(name)]
    return sorted([*single, *wrapped, *PUBLISHED_SUMS])


def build(name: str, setting: Setting, **options: Any) -> Method:
    """The method `name` for the shapes in `setting`.

    Options of a single method are its own; a wrapper's options and its base's stand side by side; a sum takes one
    dict per part, as in `build("dist+mimic", setting, dist={"tau": 2.0})`.

    Raises:
        MethodError: an unknown name or option (the nearest is suggested), or one the setting rules out.
    """
    from ._sum import Sum
    from .base import MethodError

    resolved = resolve(name, options)
    parts = _parts(name)
    for part in parts:
        classes = [method_class(stem) for stem in part.split("+")]
        tasks = frozenset.intersection(*(cls.tasks for cls in classes))
        least = max(cls.min_classes for cls in classes)
        if setting.task not in tasks:
            raise MethodError(f"{part} has no form for {setting.task}; it covers {', '.join(sorted(tasks))}")
        if setting.num_classes < least:
            raise MethodError(f"{part} needs at least {least} classes; the data has {setting.num_classes}")
    methods = {part: _build_part(part, setting, resolved[part] if len(parts) > 1 else resolved) for part in parts}
    return methods[name] if len(parts) == 1 else Sum(setting, methods)


def resolve(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """All options of `name`, defaults included: what a run's identity is made of.

    Raises:
        MethodError: an unknown method or option.
    """
    from .base import MethodError

    parts = _parts(name)
    if len(parts) == 1:
        return _resolve_part(name, options)
    _reject_unknown(name, options, parts)
    for part, given in options.items():
        if not isinstance(given, dict):
            raise MethodError(f"options of {part} in {name} are {given!r}; they must be a dict of its options")
    return {part: _resolve_part(part, options.get(part, {})) for part in parts}


def teacher_mode(name: str, options: dict[str, Any]) -> str:
    """Which teacher `name` wants under resolved `options`: "none", "frozen" or "online" (trained with the student)."""
    parts = _parts(name)
    modes = {method_class(part).mode(options[part] if len(parts) > 1 else options) for part in parts}
    return next(mode for mode in ("online", "frozen", "none") if mode in modes)


def bank_bytes(name: str, setting: Setting, options: dict[str, Any]) -> int:
    """Memory of the banks and queues that `name` will keep, in bytes, under resolved `options`."""
    parts = _parts(name)
    return sum(
        method_class(stem).bank_bytes(setting, options[part] if len(parts) > 1 else options)
        for part in parts
        for stem in part.split("+")
    )


def method_class(name: str) -> type[Method]:
    """The class behind a single name (the wrapper's, for `wrapper+base`)."""
    from .base import Method

    stem = name.split("+")[0]
    if stem not in _stems():
        raise _unknown("method", name, names())
    module = importlib.import_module(f"{__name__}.{stem}")
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, Method) and vars(value).get("name") == stem:
            return value
    raise ImportError(f"methods/{stem}.py defines no Method with name = {stem!r}")


@cache
def _stems() -> tuple[str, ...]:
    hidden = {"__init__", "base", "functional"}
    stems = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(stem for stem in stems if stem not in hidden and not stem.startswith("_")))


def _wraps(stem: str) -> tuple[str, ...]:
    return getattr(method_class(stem), "wraps", ())


def _parts(name: str) -> list[str]:
    """`akd+maskd+box_l1` -> [`akd+maskd`, `box_l1`]."""
    parts: list[str] = []
    terms = name.split("+")
    while terms:
        term = terms.pop(0)
        if term not in _stems():
            raise _unknown("method", name, names())
        if wraps := _wraps(term):
            if not terms or terms[0] not in wraps:
                raise _unknown("method", name, [f"{term}+{base}" for base in wraps])
            term = f"{term}+{terms.pop(0)}"
        parts.append(term)
    if len(set(parts)) < len(parts):
        from .base import MethodError

        raise MethodError(f"{name} names a method twice")
    return parts


def _build_part(part: str, setting: Setting, options: dict[str, Any]) -> Method:
    stem, _, base = part.partition("+")
    if not base:
        return method_class(stem)(setting, **options)
    own = _signature(stem)
    base_method = _build_part(base, setting, {k: v for k, v in options.items() if k not in own})
    return method_class(stem)(setting, base_method, **{k: v for k, v in options.items() if k in own})  # type: ignore[call-arg]


def _resolve_part(part: str, options: dict[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for stem in reversed(part.split("+")):
        defaults |= _signature(stem)
    _reject_unknown(part, options, list(defaults))
    for stem in part.split("+"):
        options = options | _typed(part, stem, options)
    return defaults | options


def _signature(stem: str) -> dict[str, Any]:
    parameters = inspect.signature(method_class(stem).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _typed(part: str, stem: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that `stem` takes, 3 as 3.0 where a float is meant, so that both are one run.

    Raises:
        MethodError: "7" for 7, 1 for true and the like, which would fail, or mean something else, only in training.
    """
    from .base import MethodError

    typed = {}
    parameters = inspect.signature(method_class(stem).__init__).parameters
    for name in options.keys() & parameters.keys():
        value, annotation = options[name], parameters[name].annotation
        wanted = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        kind = {bool: "bool", int: "int", float: "float", str: "str", type(None): "None"}.get(type(value), "")
        if kind == "int" and "float" in wanted.split(" | "):
            kind, value = "float", float(value)
        if kind not in wanted.split(" | ") or (kind == "float" and not math.isfinite(value)):
            raise MethodError(f"option {name} of {part} is {value!r}; it must be {wanted}")
        typed[name] = value
    return typed


def _reject_unknown(name: str, options: dict[str, Any], known: list[str]) -> None:
    for option in options:
        if option not in known:
            raise _unknown(f"option of {name}", option, known)


def _unknown(kind: str, name: str, known: list[str]) -> Exception:
    from .base import MethodError

    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return MethodError(f"unknown {kind}: {name!r}.{hint} Available: {', '.join(known) or 'none'}")
