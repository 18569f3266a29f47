"""What `kdbench list` prints: the names of a kind by group, and one method with its options."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from shutil import get_terminal_size

from kdbench import datasets, methods

from .. import networks, tasks
from ..errors import SpecError, unknown
from ..spec.recipe import load_recipe, recipe_names
from ..spec.schema import flattened
from ..spec.table import load_table, table_names

Lines = Iterator[str]


def listing(kind: str | None, name: str | None, width: int | None = None) -> Lines:
    """The lines that list a kind, all kinds, or one method.

    Args:
        kind: one of `KINDS`; None for all.
        name: of a method; the only kind whose members are shown one by one.
        width: of the page in characters; None for the terminal's.

    Raises:
        SpecError: an unknown kind (the nearest is suggested), or a name of another kind than a method.
        MethodError: an unknown method.
    """
    width = width or get_terminal_size().columns
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if name is not None:
        if kind != "methods":
            raise SpecError(f"kdbench list {kind} {name}: only methods are shown one by one, as in `list methods dist`")
        yield from _method(name, width)
        return
    for title in [kind] if kind else KINDS:
        if not kind:
            yield f"{title}:"
        yield from KINDS[title](width)


def _methods(width: int) -> Lines:
    """Methods by task, each with the first sentence of its description; wrappers with their bases."""
    names = methods.names()
    single = [name for name in names if "+" not in name]
    wrappers: dict[str, list[str]] = {}
    for name in names:
        wrapper, plus, base = name.partition("+")
        if plus and wrapper not in single:
            wrappers.setdefault(wrapper, []).append(base)
    for task in tasks.names():
        yield f"  {task}"
        rows = [(name, _sentence(name)) for name in single if task in methods.method_class(name).tasks]
        for wrapper, bases in wrappers.items():
            if around := [base for base in bases if _covers(f"{wrapper}+{base}", task)]:
                about = _sentence(f"{wrapper}+{around[0]}")
                rows.append((f"{wrapper}+...", f"{about} Around: {', '.join(around)}."))
        yield from _columns(rows, width, indent=4)
    yield "  a+b is the sum of two methods"
    yield "  `kdbench list methods dist` shows one with its options"


def _covers(name: str, task: str) -> bool:
    return all(task in methods.method_class(stem).tasks for stem in name.split("+"))


def _method(name: str, width: int) -> Lines:
    """A method: what it computes, its tasks, its options with their defaults, and its source.

    A wrapper is shown by itself, with the bases that it is listed with.
    """
    bases = methods.bases(name)
    options = methods.defaults(name) if bases else methods.resolve(name, {})
    for stem in name.split("+"):
        cls = methods.method_class(stem)
        yield f"{stem}: {', '.join(sorted(cls.tasks))}"
        for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
            yield f"  {line}".rstrip()
        yield from textwrap.wrap(f"source: {cls.citation}", width, initial_indent="  ", subsequent_indent="    ")
    if bases:
        names = ", ".join(f"{name}+{base}" for base in bases)
        yield from textwrap.wrap(f"around: {names}", width, initial_indent="  ", subsequent_indent="    ")
    yield "options and their defaults:"
    shown = [(option, str(value)) for option, value in flattened(options).items()]
    yield from _columns(shown, width, indent=2) if shown else ["  none"]


def _networks(width: int) -> Lines:
    """Networks by task and family."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in networks.names():
        groups.setdefault((networks.task(name), networks.family(name)), []).append(name)
    for task in tasks.names():
        yield f"  {task}"
        rows = [(family, ", ".join(names)) for (of, family), names in groups.items() if of == task]
        yield from _columns(rows, width, indent=4)
    others = "also any classifier of timm:NAME or torchvision:NAME, and a network of your own, FILE.py:FUNCTION"
    yield from textwrap.wrap(others, width, initial_indent="  ", subsequent_indent="  ")


def _tables(width: int) -> Lines:
    return _columns([(name, load_table(name).title) for name in table_names()], width)


def _datasets(width: int) -> Lines:
    return _columns([(name, "") for name in datasets.names()], width)


def _recipes(width: int) -> Lines:
    return _columns([(name, load_recipe(name).source) for name in recipe_names()], width)


KINDS: dict[str, Callable[[int], Lines]] = {
    "methods": _methods,
    "networks": _networks,
    "datasets": _datasets,
    "tables": _tables,
    "recipes": _recipes,
}


def _columns(rows: Sequence[tuple[str, str]], width: int, indent: int = 2) -> Lines:
    """Names and texts in two columns; a text is wrapped within its own."""
    first = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        start = f"{' ' * indent}{name:<{first}}  "
        page, rest = max(width, len(start) + 20), " " * len(start)
        wrapped = textwrap.wrap(text, page, initial_indent=start, subsequent_indent=rest, break_on_hyphens=False)
        yield from wrapped or [start.rstrip()]


def _sentence(name: str) -> str:
    """The first sentence of a method's description."""
    text = " ".join(inspect.cleandoc(methods.method_class(name).__doc__ or "").split("\n\n")[0].split())
    return text if text.endswith(".") else f"{text}."
