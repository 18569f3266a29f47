"""A request's choice of methods in a table: entries that the table has, and others that join it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from kdbench import methods
from kdbench.methods.base import MethodError

from ..errors import SpecError, unknown
from ..spec.choice import MethodChoice
from ..spec.schema import merged
from ..spec.table import MethodEntry, Pair, Table
from .cells import canonical
from .pairs import pair_name


def register(choices: Sequence[MethodChoice]) -> None:
    """Make the methods in users' files known.

    Raises:
        MethodError: a file that cannot be used; the message says why.
    """
    for choice in choices:
        if choice.file is not None:
            methods.register(choice.file)


def choose(tables: Sequence[Table], choices: Sequence[MethodChoice]) -> list[Table]:
    """The tables with the chosen methods and `none` alone; without a choice, as they are.

    A method that none of the tables lists joins every pair of those of its task. One with options of its own joins the
    pairs that list the method, its options laid over those of their first entry for it, or else every pair. Such
    entries are marked as `added`.

    Raises:
        SpecError: an unknown method (the nearest is suggested), one that no table's task has, or one given twice.
        MethodError: an option that does not fit.
    """
    if not choices:
        return list(tables)
    listed = {
        name
        for table in tables
        for pair in table.pairs
        for entry in table.entries(pair)
        for name in (entry.method, entry.display_name)
    }
    choices = _with_whole_labels(choices, listed)
    _refuse_twice(choices)
    for choice in choices:
        if choice.method not in listed:
            _check(choice, tables, listed)
    return [_chosen(table, choices, listed) for table in tables]


def _with_whole_labels(choices: Sequence[MethodChoice], listed: set[str]) -> list[MethodChoice]:
    """The choices, those put together that are parts of a label with commas, such as `kd, four views`."""
    joined: list[MethodChoice] = []
    rest, most = list(choices), 1 + max((label.count(",") for label in listed), default=0)
    while rest:
        count = next((n for n in range(min(most, len(rest)), 1, -1) if _label(rest[:n], listed) in listed), 1)
        joined.append(replace(rest[count - 1], method=_label(rest[:count], listed)))
        rest = rest[count:]
    return joined


def _label(parts: Sequence[MethodChoice], listed: set[str]) -> str:
    """The label of which choices are the parts; empty where one is a method or has options before the label's end."""
    whole = not any(part.suffix or part.file for part in parts[:-1])
    whole &= not any(part.method in listed or methods.known(part.method) for part in parts[1:])
    return ", ".join(part.method for part in parts) if whole else ""


def _refuse_twice(choices: Sequence[MethodChoice]) -> None:
    seen: set[str] = set()
    for choice in choices:
        if (label := choice.method + choice.suffix) in seen:
            raise SpecError(f"--methods: {label} is given twice; remove one")
        seen.add(label)


def with_kd(tables: Sequence[Table], listing: Sequence[Table]) -> list[Table]:
    """The tables with plain `kd` in every pair that has a distilled student, where their task has it.

    Args:
        tables: with the chosen methods.
        listing: the same before the choice: an entry of theirs is used where there is one.
    """
    return [_with_kd(table, before) for table, before in zip(tables, listing, strict=True)]


def _with_kd(table: Table, before: Table) -> Table:
    pairs = []
    for pair, listed in zip(table.pairs, before.pairs, strict=True):
        missing = _missing_kd(table, table.entries(pair), before.entries(listed))
        entries = (*table.entries(pair), *missing)
        pairs.append(pair.model_copy(update={"methods": entries}) if missing else pair)
    return table.model_copy(update={"pairs": tuple(pairs)})


def _missing_kd(table: Table, entries: Sequence[MethodEntry], listed: Sequence[MethodEntry]) -> list[MethodEntry]:
    """The entry of plain `kd` that a pair lacks, if any."""
    has = any(entry.method == "kd" and (not entry.added or entry.display_name == "kd") for entry in entries)
    if has or all(entry.method == "none" for entry in entries):
        return []
    known = [entry for entry in listed if entry.method == "kd"]
    entry = known[0] if known else _added(table, MethodChoice("kd"), None)
    return [] if entry is None else [entry]


def with_entries(
    table: Table,
    entries: Mapping[str, Sequence[MethodEntry]],
    pairs: Mapping[str, Pair] = MappingProxyType({}),
) -> Table:
    """The table with further entries and pairs.

    Args:
        table: the table.
        entries: by pair, as `kdbench.grid.pairs.pair_name` names it.
        pairs: likewise; one that the table has is left out.
    """
    listed = {pair_name(pair) for pair in table.pairs}
    joined = [
        pair.model_copy(update={"methods": tuple(entries[name])})
        for name, pair in pairs.items()
        if name not in listed and entries.get(name)
    ]
    extended = tuple(
        pair.model_copy(update={"methods": (*table.entries(pair), *_new(table.entries(pair), more))})
        if (more := entries.get(pair_name(pair))) and table.entries(pair)
        else pair
        for pair in table.pairs
    )
    return table.model_copy(update={"pairs": (*extended, *joined)})


def _new(entries: Sequence[MethodEntry], more: Sequence[MethodEntry]) -> list[MethodEntry]:
    """Those of `more` whose name no entry has."""
    names = {entry.display_name for entry in entries}
    return [entry for entry in more if entry.display_name not in names]


def _check(choice: MethodChoice, tables: Sequence[Table], listed: set[str]) -> None:
    """Refuse a name that no table lists and that is no method of the tables' tasks."""
    if not methods.known(choice.method):
        fitting = {name for name in methods.names() if any(table.task in _tasks(name) for table in tables)}
        raise unknown("method", choice.method, listed | fitting, ".py")
    covered = _tasks(choice.method)
    if not any(table.task in covered for table in tables):
        raise SpecError(
            f"method {choice.method} is for {', '.join(sorted(covered))}, and these tables are for "
            f"{', '.join(sorted({table.task for table in tables}))}"
        )


def _tasks(method: str) -> frozenset[str]:
    return frozenset.intersection(*(methods.method_class(stem).tasks for stem in method.split("+")))


def _chosen(table: Table, choices: Sequence[MethodChoice], listed: set[str]) -> Table:
    pairs = tuple(
        pair.model_copy(update={"methods": _entries(table, pair, choices, listed)}) if table.entries(pair) else pair
        for pair in table.pairs
    )
    return table.model_copy(update={"pairs": pairs})


def _entries(table: Table, pair: Pair, choices: Sequence[MethodChoice], known: set[str]) -> tuple[MethodEntry, ...]:
    """The pair's entries that are chosen, in the table's order, then those that join; some table lists the `known`."""
    listed = table.entries(pair)
    plain = {choice.method for choice in choices if not choice.options}
    kept = [entry for entry in listed if entry.method == "none" or {entry.method, entry.display_name} & plain]
    joining: list[MethodEntry] = []
    for choice in choices:
        same = [entry for entry in listed if choice.method in (entry.method, entry.display_name)]
        same.sort(key=lambda entry: entry.display_name != choice.method)  # an entry with another label is a variant
        if (choice.options and same) or choice.method not in known:
            entry = _added(table, choice, same[0] if same else None)
            if entry is None:
                continue
            twin = next((each for each in listed if _runs_the_same(each, entry)), None)
            (kept if twin in listed and twin not in kept else joining).append(twin or entry)
    order = {id(entry): i for i, entry in enumerate(listed)}
    kept.sort(key=lambda entry: order[id(entry)])
    names = {entry.display_name for entry in kept}
    return (*kept, *(entry for entry in joining if entry.display_name not in names))


def _added(table: Table, choice: MethodChoice, listed: MethodEntry | None) -> MethodEntry | None:
    """The entry of a choice that a table does not list; None where the method is for another task than the table."""
    method = listed.method if listed else choice.method
    if not all(table.task in methods.method_class(stem).tasks for stem in method.split("+")):
        return None
    base: dict[str, Any] = listed.options if listed else {}
    mini: dict[str, Any] = listed.mini_options if listed else {}
    options = merged(base, dict(choice.options))
    try:
        full = methods.resolve(method, options)
        small = methods.resolve(method, merged(merged(base, mini), dict(choice.options)))
    except MethodError as error:
        raise MethodError(f"{choice.method}{choice.suffix}: {error}") from error
    return MethodEntry(
        method=method,
        options=full,
        mini_options=small,
        base_recipe=listed.base_recipe if listed else None,
        recipe=listed.recipe if listed else {},
        gain_over=listed.gain_over if listed else None,
        label=f"{choice.method}{choice.suffix}",
        added=True,
    )


def _runs_the_same(entry: MethodEntry, other: MethodEntry) -> bool:
    if entry.method != other.method or not entry.shares_recipe(other):
        return False
    mine = canonical(methods.resolve(entry.method, entry.options_at("full")))
    return mine == canonical(methods.resolve(other.method, other.options_at("full")))
