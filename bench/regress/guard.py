"""Whether every method computes the loss terms that are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..text import counted
from . import first_losses


def guard(path: Path, update: bool, log: Callable[[str], None]) -> bool:
    """Compute every method's first losses and compare them with those that are kept; whether all is well.

    Args:
        path: of the kept losses.
        update: keep the computed ones instead, if all could be computed.
        log: receives what differs, what is new, and the counts.
    """
    before = {} if update else first_losses.read(path)
    computed = first_losses.compute()
    problems = list(computed.failures)
    if not update:
        problems += first_losses.differences(before, computed.losses)
    for line in problems:
        log(line)
    if problems:
        return False
    if update:
        first_losses.write(computed.losses, path)
    for key in sorted(computed.losses.keys() - before.keys()) if not update else ():
        log(f"{key} is new: `kdbench guard --update` keeps its losses")
    terms = len({(key, name) for key, steps in computed.losses.items() for step in steps for name in step})
    counts = f"{counted(len(computed.losses), 'method')}, {counted(terms, 'loss term')}"
    log(f"{counts}: {'kept' if update else 'unchanged'}")
    return True
