"""Pairs that a request adds to tables: students and teachers that they do not list."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from .. import networks, tasks
from ..errors import SpecError, unknown
from ..spec import network_name
from ..spec.request import RunRequest
from ..spec.scale import Scale
from ..spec.table import MethodEntry, Networks, Pair, Table
from .cells import expand_pair
from .pairs import networks_at, pair_name, pair_names

Log = Callable[[str], None]


class _Role(NamedTuple):
    """A network of a pair: its name in the table, and what runs at full and at mini scale."""

    name: str
    full: str
    mini: str | None


def with_pairs(tables: Sequence[Table], request: RunRequest, log: Log) -> list[Table]:
    """The tables with the pairs of a request: those of `pairs`, their students replaced by `student`, and their
    teachers by networks of `teacher` that no table lists.

    A pair of the tables has the names of the paper, or those of the networks that run at full scale. A pair that none
    of them has joins all tables of its task, in the table's recipe and with its methods; it is marked as `added`.

    Raises:
        SpecError: an unknown network (the nearest is suggested), or none that these tables' tasks have.
    """
    students = [network_name.resolve(name) for name in request.student]
    teachers = [name for name in map(_teacher, request.teacher) if name]
    chosen = _of_names(tables, request.pairs)
    if students or teachers:
        chosen = [_replaced(table, students, teachers) for table in chosen]
    kept = [table for table in chosen if table.pairs]
    if not kept:
        raise SpecError(_no_table(tables, [*students, *teachers]))
    names = {table.name for table in kept}
    if others := [table.name for table in tables if table.name not in names]:
        options = [f"--{name}" for name in ("pairs", "student", "teacher") if getattr(request, name)]
        log(f"left out, because none of their pairs is of {' and '.join(options)}: {', '.join(others)}")
    return kept


def sized(
    tables: Sequence[Table], scale: Scale, request: RunRequest, stored: tuple[int, int]
) -> tuple[list[Table], RunRequest]:
    """The tables and the request with the networks of added pairs that read images of the recipe's size.

    Args:
        tables: of one data set.
        scale: "full" or "mini".
        request: its teachers and recipe changes.
        stored: height and width of the data set's images in pixels, if they are stored in one size.

    Raises:
        SpecError: an architecture that cannot be built for this size.
    """
    renamed: dict[str, str] = {}
    chosen = []
    for table in tables:
        pairs = tuple(
            _sized(table, pair, scale, request, stored, renamed) if pair.added else pair for pair in table.pairs
        )
        chosen.append(table.model_copy(update={"pairs": pairs}))
    teachers = tuple(
        given._replace(network=renamed.get(network_name.resolve(given.network), given.network))
        if given.network
        else given
        for given in request.teacher
    )
    return chosen, replace(request, teacher=teachers)


def _sized(
    table: Table, pair: Pair, scale: Scale, request: RunRequest, stored: tuple[int, int], renamed: dict[str, str]
) -> Pair:
    """A pair whose networks from outside read images of the recipe's size; adds the names that change to `renamed`."""
    recipe = expand_pair(table, pair, scale, request.changes, entries=table.entries(pair)[:1])[0].recipe
    size = tasks.get(table.task).input_size(recipe, stored)
    for name in filter(network_name.is_outside, networks_at(pair, scale)):
        renamed[name] = networks.for_images(name, size)

    def new(name: str) -> str:
        return renamed.get(name, name)

    def both(of: Networks | None) -> Networks | None:
        return Networks(teacher=new(of.teacher), student=new(of.student)) if of else None

    names = {"teacher": new(pair.teacher), "student": new(pair.student)}
    return pair.model_copy(update={**names, "networks": both(pair.networks), "mini": both(pair.mini)})


def _teacher(given: tuple[str | None, object]) -> str | None:
    """The network that a request's teacher adds; None where it is a file for a table's teacher."""
    name = given[0]
    return network_name.resolve(name) if name is not None and network_name.is_outside(name) else None


def _of_names(tables: Sequence[Table], given: Sequence[str]) -> list[Table]:
    """The tables with the pairs that are named; those that none has join. Without names, as they are."""
    names = ["->".join(end.strip() for end in re.split("->|\N{RIGHTWARDS ARROW}", name)) for name in given]
    if not names:
        return list(tables)
    listed = {name for table in tables for pair in table.pairs for name in pair_names(pair)}
    joining = [_ends(name, listed) for name in names if name not in listed]
    chosen = []
    for table in tables:
        pairs = [pair for pair in table.pairs if set(names) & pair_names(pair)]
        pairs += [pair for teacher, student in joining for pair in _joined(table, teacher, student)]
        chosen.append(table.model_copy(update={"pairs": tuple(pairs)}))
    for name, (teacher, student) in zip([n for n in names if n not in listed], joining, strict=True):
        if not any(pair_name(pair) == f"{teacher}->{student}" for table in chosen for pair in table.pairs):
            tasks = ", ".join(sorted({table.task for table in tables}))
            raise SpecError(f"--pairs {name}: these tables are for {tasks}, and its networks for another task")
    return chosen


def _ends(name: str, listed: set[str]) -> tuple[str, str]:
    """Teacher and student of a pair that no table lists.

    Raises:
        SpecError: it is no pair, or has a network that does not exist.
    """
    ends = name.split("->")
    if len(ends) != 2 or not all(ends):
        raise unknown("pair of these tables in --pairs", name, listed)
    resolved = [network_name.resolve(end) for end in ends]
    known = {end for each in listed for end in each.split("->")}
    for end in resolved:
        if end not in known and not _exists(end):
            raise unknown("pair of these tables in --pairs", name, listed)
    return resolved[0], resolved[1]


def _joined(table: Table, teacher: str, student: str) -> Iterator[Pair]:
    """The pair of two networks as one of the table's; nothing where they are for another task."""
    roles = _role(table, teacher, "teacher"), _role(table, student, "student")
    if all(networks.task(role.full) == table.task for role in roles):
        template = next((pair for pair in table.pairs if pair.teacher == roles[0].name), None)
        yield _pair(table, roles[0], roles[1], template)


def _replaced(table: Table, students: Sequence[str], teachers: Sequence[str]) -> Table:
    """The table with other students or teachers in all its pairs."""
    pairs: dict[str, Pair] = {}
    for pair in (pair for pair in table.pairs if not pair.skip):
        for teacher in teachers or [pair.teacher]:
            for student in students or [pair.student]:
                roles = _role(table, teacher, "teacher", pair), _role(table, student, "student", pair)
                if all(networks.task(role.full) == table.task for role in roles):
                    joined = _pair(table, roles[0], roles[1], pair if teacher == pair.teacher else None)
                    listed = next((each for each in table.pairs if pair_name(each) == pair_name(joined)), joined)
                    pairs.setdefault(pair_name(joined), listed)
    return table.model_copy(update={"pairs": tuple(pairs.values())})


def _pair(table: Table, teacher: _Role, student: _Role, template: Pair | None) -> Pair:
    """A pair in the table's recipe, under the template's protocol and with its methods; else with their defaults."""
    kept = {"methods", "base_recipe", "base_teacher_recipe", "teacher_recipe", "data", "mini_data"}
    fields = {name: getattr(template, name) for name in kept} if template else {"methods": _methods_by_pair(table)}
    mini = (
        None if teacher.mini is None or student.mini is None else Networks(teacher=teacher.mini, student=student.mini)
    )
    return Pair(
        teacher=teacher.name,
        student=student.name,
        networks=Networks(teacher=_of_library(teacher, student.full), student=student.full),
        mini=mini,
        added=True,
        **fields,
    )


def _methods_by_pair(table: Table) -> tuple[MethodEntry, ...]:
    """The methods of a table that has none for all pairs, without the options that are tuned for single ones."""
    first: dict[str, MethodEntry] = {}
    for entry in (entry for pair in table.pairs for entry in pair.methods if not entry.control):
        first.setdefault(entry.method, entry)
    kept = ("mini_options", "mini_skip", "base_recipe", "recipe")
    entries = (MethodEntry(method=name, **{each: getattr(of, each) for each in kept}) for name, of in first.items())
    return () if table.methods else tuple(entries)


def _of_library(teacher: _Role, student: str) -> str:
    """The teacher's network; that of its own name where the table's is another library's than the student's."""
    other = networks.library(teacher.full) != networks.library(student) and _exists(teacher.name)
    return teacher.name if other and networks.library(teacher.name) == networks.library(student) else teacher.full


def _role(table: Table, name: str, role: str, pair: Pair | None = None) -> _Role:
    """A network by its name in a table, else by its own; the pair's where it has that name.

    Raises:
        SpecError: no network has the name; the nearest is suggested.
    """
    for listed in ([pair] if pair else []) + [each for each in table.pairs if not each.skip]:
        full = getattr(listed.networks, role) if listed.networks else getattr(listed, role)
        if name in (getattr(listed, role), full):
            mini = getattr(listed.mini, role) if listed.mini else None
            return _Role(getattr(listed, role), full, mini)
    if not _exists(name):
        known = {getattr(listed, role) for listed in table.pairs}
        raise unknown(f"network in --{role}", name, known | set(networks.names()))
    return _Role(name, name, name)


def _exists(name: str) -> bool:
    """Whether a name is a network's.

    Raises:
        SpecError: one of a library or file that it does not have; the nearest is suggested.
    """
    if network_name.is_outside(name):
        networks.task(name)
        return True
    return name in networks.names()


def _no_table(tables: Sequence[Table], names: Sequence[str]) -> str:
    tasks = ", ".join(sorted({table.task for table in tables}))
    return f"these tables are for {tasks}; {', '.join(names)} cannot be used in any of them"
