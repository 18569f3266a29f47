"""Distillation methods, one per file.

A file in this folder that defines a `Method` subclass is a method, and its `name` is the file's. Files that start with
an underscore are shared by several methods.

`a+b` composes methods: a wrapper (a class with `wraps`) takes the next term as its base, all others are summed. So
`akd+cwd` is AKD around CWD, `dist+mimic` is the sum of two losses, and `akd+maskd+box_l1` is the sum of a wrapped loss
and another loss. Where a base has other defaults inside a wrapper, they are in the wrapper's `wrapped_defaults`, by the
base's name.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _outside
from ._errors import MethodError, unknown
from ._source import source_hash

if TYPE_CHECKING:
    from .base import Method, Setting

PUBLISHED_SUMS = ("cirkd+kd", "cwd+kd", "dist+mimic", "freekd+box_l1", "ifvd+kd", "skd+kd")
"""Sums in the papers' tables; any other sum of methods can be built as well."""

GRADIENTS = ("summed", "separate")
"""Values of `Method.gradients`."""


def names() -> list[str]:
    """Names of all methods, those of registered files and installed packages included, and published sums."""
    single = [name for name in _stems() if not _wraps(name)]
    wrapped = [f"{name}+{base}" for name in _stems() for base in _wraps(name)]
    return sorted([*single, *wrapped, *PUBLISHED_SUMS])


def register(path: Path) -> str:
    """Make the method in a user's file known under the file's name, in this process; returns that name.

    Raises:
        MethodError: no such file, a name that is taken, or a file that cannot be imported or has no such method.
    """
    return _outside.register(path, _shipped())


def known(name: str) -> bool:
    """Whether every term of a name is a method."""
    return set(name.split("+")) <= set(_stems())


def bases(name: str) -> tuple[str, ...]:
    """The methods that a wrapper is listed around, such as `kd` and `dkd` of `sdd`; empty for any other name."""
    return _wraps(name) if name in _stems() else ()


def files(name: str) -> tuple[Path, ...]:
    """The files of the terms of a name that do not come with kdbench."""
    found = (_outside.file_of(stem) for stem in name.split("+") if stem not in _shipped())
    return tuple(path for path in found if path is not None)


def build(name: str, setting: Setting, **options: Any) -> Method:
    """The method `name` for the shapes in `setting`.

    Keyword options are those of the method. A wrapper takes its options and those of its base; a sum takes one dict
    for each summand, as in `build("dist+mimic", setting, dist={"tau": 2.0})`.

    Raises:
        MethodError: an unknown name or option (the nearest is suggested), or one that does not fit the setting.
    """
    from ._sum import Sum
    from .base import StudentHead

    resolved = resolve(name, options)
    summands = _summands(name)
    for summand in summands:
        _check_setting(summand, setting)
    try:
        if len(summands) == 1:
            method = _build_summand(name, setting, resolved)
        else:
            method = Sum(setting, {each: _build_summand(each, setting, resolved[each]) for each in summands})
    except OverflowError as error:
        raise MethodError(f"{name}: an option is too large to compute with ({error}): {resolved}") from error
    if method.gradients not in GRADIENTS:
        raise MethodError(f"{name}: gradients is {method.gradients!r}; it must be {' or '.join(map(repr, GRADIENTS))}")
    head = method.student_head()
    if head is not None and not isinstance(head, StudentHead):
        raise MethodError(f"{name}: student_head returns a {type(head).__name__}; return a StudentHead")
    return method


def defaults(term: str) -> dict[str, Any]:
    """The options of one term of a name with their defaults; a wrapper's own alone."""
    return {p.name: p.default for p in _parameters(term).values() if p.default is not p.empty}


def resolve(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """All options of `name`, including defaults; part of a run's identity.

    Raises:
        MethodError: an unknown method or option, or a value of the wrong type.
    """
    summands = _summands(name)
    if len(summands) == 1:
        return _resolve_summand(name, options)
    _reject_unknown(name, options, summands)
    for summand, values in options.items():
        if not isinstance(values, dict):
            raise MethodError(f"options of {summand} in {name} are {values!r}; they must be a dict of its options")
    return {summand: _resolve_summand(summand, options.get(summand, {})) for summand in summands}


def teacher_mode(name: str, options: dict[str, Any]) -> str:
    """The kind of teacher for resolved `options`: "none", "frozen" or "online" (trained with the student)."""
    summands = _summands(name)
    modes = {method_class(s).mode(options[s] if len(summands) > 1 else options) for s in summands}
    return next(mode for mode in ("online", "frozen", "none") if mode in modes)


def views(name: str) -> tuple[str, ...]:
    """The further views of a batch that the terms of a name read, in the order of `base.VIEWS`."""
    from .base import VIEWS

    wanted = {view for stem in name.split("+") for view in method_class(stem).views}
    return tuple(view for view in VIEWS if view in wanted)


def one_class_per_image(name: str) -> bool:
    """Whether a term of a name needs one class for each image."""
    return any(method_class(stem).one_class_per_image for stem in name.split("+"))


def joint_views(name: str) -> bool:
    """Whether the student sees a batch and its views in one forward."""
    return any(method_class(stem).joint_views for stem in name.split("+"))


def class_shortage(name: str, classes: int) -> str:
    """Why a method cannot train on so many classes; empty if it can."""
    for summand in _summands(name):
        least = max(method_class(stem).min_classes for stem in summand.split("+"))
        if classes < least:
            return f"{summand} needs at least {least} classes; the data has {classes}"
    return ""


def bank_bytes(name: str, setting: Setting, options: dict[str, Any]) -> int:
    """Memory of the banks and queues of `name` with resolved `options`, in bytes."""
    summands = _summands(name)
    return sum(
        method_class(stem).bank_bytes(setting, options[summand] if len(summands) > 1 else options)
        for summand in summands
        for stem in summand.split("+")
    )


def code(name: str) -> str | None:
    """Hash of the source of `name` and of what it imports from this folder, without comments and docstrings.

    None where there is no such method any more.
    """
    if not known(name):
        return None
    stems = name.split("+")
    shipped = [stem for stem in stems if stem in _shipped()]
    return source_hash(tuple({*shipped, "_sum"} if len(stems) > 1 else shipped), files(name))


def method_class(name: str) -> type[Method]:
    """The class of a method; for `wrapper+base` the wrapper's class.

    Raises:
        MethodError: an unknown name; the nearest is suggested.
    """
    stem = name.split("+")[0]
    if stem not in _stems():
        raise unknown("method", name, names())
    return _declared(stem)


def _declared(stem: str) -> type[Method]:
    """The class in a method's file."""
    return _in_folder(stem) if stem in _shipped() else _outside.load(stem)


@cache
def _in_folder(stem: str) -> type[Method]:
    from .base import Method

    module = importlib.import_module(f"{__name__}.{stem}")
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, Method) and vars(value).get("name") == stem:
            return value
    raise ImportError(f"methods/{stem}.py defines no Method with name = {stem!r}")


def _stems() -> tuple[str, ...]:
    return (*_shipped(), *_outside.names())


@cache
def _shipped() -> tuple[str, ...]:
    hidden = {"__init__", "base", "functional"}
    stems = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(stem for stem in stems if stem not in hidden and not stem.startswith("_")))


def _wraps(stem: str) -> tuple[str, ...]:
    return getattr(method_class(stem), "wraps", ())


def _bases(stem: str) -> tuple[str, ...]:
    """What a wrapper can wrap; empty for another method. With `wraps_any` its `wraps` are examples of all methods."""
    if not getattr(method_class(stem), "wraps_any", False):
        return _wraps(stem)
    return tuple(base for base in _stems() if base not in (stem, "none"))


def _summands(name: str) -> list[str]:
    """`akd+maskd+box_l1` -> [`akd+maskd`, `box_l1`]; a single method is its only summand."""
    summands: list[str] = []
    terms = name.split("+")
    while terms:
        term = terms.pop(0)
        if term not in _stems():
            raise unknown("method", name, names())
        summand = term
        while wraps := _bases(term):
            if not terms:
                others = ", or with another method" if wraps != _wraps(term) else ""
                shown = " or ".join(f"{summand}+{base}" for base in _wraps(term))
                raise MethodError(f"{summand} is a wrapper and needs a base: write {shown}{others}")
            if terms[0] not in wraps:
                if terms[0] in _stems():
                    others = " or any other method" if wraps != _wraps(term) else ""
                    raise MethodError(f"{term} wraps {', '.join(_wraps(term))}{others}, not {terms[0]}")
                raise unknown("method", name, [f"{summand}+{base}" for base in wraps])
            term = terms.pop(0)
            summand = f"{summand}+{term}"
        summands.append(summand)
    if len(set(summands)) < len(summands):
        raise MethodError(f"{name} names a method twice")
    return summands


def _check_setting(summand: str, setting: Setting) -> None:
    classes = [method_class(stem) for stem in summand.split("+")]
    tasks = frozenset.intersection(*(cls.tasks for cls in classes))
    if setting.task not in tasks:
        raise MethodError(f"{summand} does not support {setting.task}; it supports {', '.join(sorted(tasks))}")
    if shortage := class_shortage(summand, setting.num_classes):
        raise MethodError(shortage)


def _build_summand(summand: str, setting: Setting, options: dict[str, Any]) -> Method:
    stem, _, base = summand.partition("+")
    if not base:
        return method_class(stem)(setting, **options)
    wrapper_defaults = defaults(stem)
    wrapper_options = {k: v for k, v in options.items() if k in wrapper_defaults}
    base_options = {k: v for k, v in options.items() if k not in wrapper_defaults}
    base_method = _build_summand(base, setting, base_options)
    return method_class(stem)(setting, base_method, **wrapper_options)  # type: ignore[call-arg]


def _resolve_summand(summand: str, options: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for stem in reversed(summand.split("+")):
        values |= defaults(stem)
    for wrapper, base in pairwise(summand.split("+")):
        values |= getattr(method_class(wrapper), "wrapped_defaults", {}).get(base, {})
    _reject_unknown(summand, options, list(values))
    for stem in summand.split("+"):
        options = options | _typed(summand, stem, options)
    return values | options


@cache
def _parameters(stem: str) -> Mapping[str, inspect.Parameter]:
    """What the class of a method is made with."""
    return inspect.signature(method_class(stem).__init__).parameters


def _typed(summand: str, stem: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of `stem`; an integer for a float option is converted, so that 3 and 3.0 give the same run.

    Raises:
        MethodError: a value of another type, such as "7" for 7 or 1 for true, a float that is not finite, or a weight
            below 0.
    """
    typed = {}
    parameters = _parameters(stem)
    for name in options.keys() & parameters.keys():
        value, annotation = options[name], parameters[name].annotation
        expected = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        kind = {bool: "bool", int: "int", float: "float", str: "str", type(None): "None"}.get(type(value), "")
        if kind == "int" and "float" in expected.split(" | "):
            kind, value = "float", float(value)
        if kind not in expected.split(" | ") or (kind == "float" and not math.isfinite(value)):
            quoted = "; write a text of digits in quotes" if "str" in expected and kind in ("int", "float") else ""
            raise MethodError(f"option {name} of {summand} is {value!r}; it must be {expected}{quoted}")
        if kind in ("int", "float") and value < 0 and (name == "weight" or name.endswith("_weight")):
            raise MethodError(f"option {name} of {summand} is {value!r}; a weight below 0 would raise what it weighs")
        typed[name] = value
    return typed


def _reject_unknown(name: str, options: dict[str, Any], known: list[str]) -> None:
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
