"""What the class of a method says of itself: tasks, citation, and options with types, defaults and descriptions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from kdbench import methods
from kdbench.methods.base import Method

from .samples import TASKS

TYPES = ("bool", "int", "float", "str", "None")
"""Of options: what the command line and YAML can write."""


def wrong_description(term: str) -> Iterator[str]:
    """What is wrong with the class of a term of a method's name."""
    cls = methods.method_class(term)
    allowed = sorted(set(TASKS.values()))
    if not cls.tasks:
        yield f"tasks is empty; name at least one of {', '.join(allowed)}"
    if unknown := sorted(cls.tasks - set(allowed)):
        yield f"tasks has {', '.join(map(repr, unknown))}; the tasks are {', '.join(allowed)}"
    if term != "none" and not re.search(r"\b(19|20)\d\d\b.*https://", cls.citation, re.S):
        yield f"citation must have a year and then a URL (https://...), and is {cls.citation!r}"
    if cls.views and (others := sorted(cls.tasks & set(allowed) - {"classification"})):
        yield f"views are made of the images of classification, and tasks has {', '.join(others)}; leave one out"
    yield from _wrong_options(cls)


def _wrong_options(cls: type[Method]) -> Iterator[str]:
    parameters = list(inspect.signature(cls).parameters.values())
    given = 2 if getattr(cls, "wraps", ()) else 1  # the setting, and the base of a wrapper
    for parameter in parameters[given:]:
        name, annotation = parameter.name, parameter.annotation
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield f"`__init__` takes {parameter}; name every option, with its type and default"
            continue
        if parameter.default is parameter.empty:
            yield f"option {name} has no default; a method must be built without options"
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        if annotation is parameter.empty:
            yield f"option {name} has no type; write `{name}: float = 1.0`, or another of {', '.join(TYPES)}"
        elif not set(text.split(" | ")) <= set(TYPES):
            yield f"option {name} is a {text}; write one of {', '.join(TYPES)}, or several as in `float | None`"
        if not _described(cls, name):
            yield f"option {name} is not described in the docstring of {cls.__name__}"


def _described(cls: type[Method], option: str) -> bool:
    """Whether the docstring of the class, or of a class above it that has the option, names it."""
    classes = [c for c in cls.__mro__ if issubclass(c, Method) and c is not Method]
    own = [c for c in classes if c is cls or option in inspect.signature(c).parameters]
    return any(re.search(rf"\b{re.escape(option)}\b", c.__doc__ or "") for c in own)
