"""Where jobs run, and what a batch system is asked for, as the command line has it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..errors import SpecError, unknown

ENGINES = ("local", "slurm", "ray")

SLURM_OURS = ("array", "chdir", "dependency", "error", "job-name", "open-mode", "output", "parsable", "requeue", "wrap")
"""Options of sbatch that the engine sets."""

SLURM_NOT = ("clusters", "help", "test-only", "usage", "version", "wait")
"""Those with which jobs are not submitted here and now, and cannot be followed."""


def parse_engine(text: str | None) -> str:
    """One of `ENGINES`; local without one.

    Raises:
        SpecError: anything else.
    """
    if text is not None and text not in ENGINES:
        raise unknown("engine", text, ENGINES)
    return text or "local"


def parse_slurm(given: str | Mapping[str, str] | Iterable[str] | None) -> dict[str, str]:
    """`["partition=gpu,gres=gpu:1", "exclusive"]` -> options of sbatch by their long names; a flag has an empty value.

    A comma separates options where a name follows it: `exclude=node1,node2,time=8:00:00` are two.

    Raises:
        SpecError: no name, one that is given twice, or one that kdbench sets itself.
    """
    if isinstance(given, Mapping):
        return dict(given)
    options: dict[str, str] = {}
    for text in [given] if isinstance(given, str) else given or ():
        for each in re.split(r",(?=[a-z][a-z-]*=)", text):
            name, equals, value = each.strip().partition("=")
            name = name.removeprefix("--")
            if not re.fullmatch(r"[a-z][a-z-]*", name) or (equals and not value):
                raise SpecError(f"--slurm {each}: write NAME=VALUE, as in --slurm partition=gpu,time=8:00:00")
            if name in options:
                raise SpecError(f"--slurm {name} is given twice; remove one")
            if name in SLURM_OURS:
                raise SpecError(f"--slurm {name}: kdbench sets it itself; leave it out")
            if name in SLURM_NOT:
                raise SpecError(f"--slurm {name}: jobs could not be followed with it; leave it out")
            options[name] = value
    return options
