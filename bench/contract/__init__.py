"""The contract of methods: what each one promises, checked on small random batches of every task in seconds.

from kdbench import contract

assert contract.problems("mine.py") == []
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from kdbench import methods
from kdbench.methods.base import VIEWS, MethodError

from ..text import counted, one_line, shortened
from .checks import CHECKS, Case, kinds, returns_loss_terms, step_on_cuda
from .description import wrong_description
from .on_cuda import listed

__all__ = ["problems", "report"]

LABELS = {"dense": "one-stage detection", "two-stage": "two-stage detection"}


def problems(method: str | Path, options: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with a method, a sentence each; empty if it keeps the contract.

    Args:
        method: a name of `kdbench.methods.names`, a sum such as `a+b`, or the file of a method.
        options: with which it is built; all others have their defaults.

    Raises:
        MethodError: an unknown method or option, or a file that cannot be used; the message says why.
    """
    file = Path(method) if str(method).endswith(".py") else None
    name = methods.register(file) if file else str(method)
    return [line for line, wrong in report(name, options) if wrong]


def report(name: str, options: Mapping[str, Any] | None = None) -> Iterator[tuple[str, bool]]:
    """A line about everything that was checked of a known method, and whether it is wrong.

    Raises:
        MethodError: an unknown method or option.
    """
    resolved = options or {}
    described = _description(name)
    methods.resolve(name, dict(resolved))
    yield from described or [(f"{name}: tasks, citation and options are described", False)]
    if not (supported := kinds(name)) and not described:
        yield f"{name}: no task has all of its terms", True
    for kind in supported:
        label = LABELS.get(kind, kind)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # what torch warns of, such as broadcast shapes, is a fault
            case = Case(name, kind, resolved)
            wrong = list(dict.fromkeys(_wrong(case)))
            lines = wrong or _passed(case)
        yield from ((f"{name}, {label}: {text}", bool(wrong)) for text in lines)


def _description(name: str) -> list[tuple[str, bool]]:
    return [(f"{term}: {text}", True) for term in name.split("+") for text in wrong_description(term)]


def _wrong(case: Case) -> Iterator[str]:
    """The problems of a case; what would follow from one that was found is not checked."""
    try:
        case.build()
    except Exception as error:  # noqa: BLE001 - any error of a method is one of its problems
        yield f"cannot be built: {_reason(error, case.name)}"
        return
    for check in (returns_loss_terms, *CHECKS):
        found = 0
        try:
            for text in check(case):
                found += 1
                yield one_line(text)
        except Exception as error:  # noqa: BLE001 - likewise
            found += 1
            yield f"cannot be computed: {_reason(error, case.name)}"
        if found and check is returns_loss_terms:
            return


def _passed(case: Case) -> list[str]:
    """How many checks there were, and what makes a step slow on a GPU, which is no problem."""
    step = step_on_cuda(case)
    checks, kernels = counted(len(CHECKS) + 1, "check"), counted(step.kernels, "kernel")
    return [f"{checks}; {kernels} a step on a GPU", *listed(step.slows)]


def _reason(error: Exception, name: str) -> str:
    """`ValueError: ... (mine.py:12)`: an error in one line, with the last line of the method's files that was run."""
    text = str(error) if isinstance(error, MethodError) else f"{type(error).__name__}: {error}"
    if isinstance(error, KeyError) and error.args[0] in set(VIEWS) - set(methods.views(name)):
        text = f"it reads the view {error} and does not ask for it; write it into `views`"
    files = {str(path): path.name for path in methods.files(name)}
    lines = [
        f"{files[f.filename]}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__) if f.filename in files
    ]
    return one_line(shortened(text, 500)) + (f" ({lines[-1]})" if lines else "")
