"""Errors. Those of USER_ERRORS are printed to the user as one message, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from kdbench.datasets.base import DataError


class SpecError(ValueError):
    """A table, recipe, option or name is wrong; the message names file and field, and the fix."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and the fix."""


class StoreError(OSError):
    """A result could not be written; the message names the folder and the fix."""


class TeacherError(ValueError):
    """A teacher cannot be used; the message says why and the fix."""


class DeviceError(RuntimeError):
    """A device cannot be used; the message says why."""


class EngineError(RuntimeError):
    """An engine does not take jobs; the message says why, and the fix."""


class LoaderError(RuntimeError):
    """A batch could not be prepared; the message says why, and the fix where the loader processes are the reason."""


class DivergedError(ArithmeticError):
    """A loss term, a weight or a buffer of a run is not finite."""


USER_ERRORS = (
    SpecError,
    CheckpointError,
    StoreError,
    TeacherError,
    DataError,
    DeviceError,
    EngineError,
    LoaderError,
)
"""With `methods.base.MethodError`, which is imported only where methods are."""


def unknown(kind: str, name: str, known: Iterable[str], suffix: str = "") -> SpecError:
    """The error for a name that does not exist, with the nearest one that does.

    Args:
        kind: what it names.
        name: as it was given.
        known: the names that exist.
        suffix: of files that may be given by their path in place of a name, such as `.py`.
    """
    choices = sorted(known)
    by_lower = {choice.lower(): choice for choice in choices}
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1)
    hint = f" Did you mean {by_lower[nearest[0]]!r}?" if nearest else ""
    if suffix and Path(f"{name}{suffix}").is_file():
        hint = f" A file is given by its path: ./{name}{suffix}."
    return SpecError(f"unknown {kind}: {name!r}.{hint} Available: {_listed(choices) or 'none'}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' if "," in name else name for name in names)


def is_for_users(error: Exception) -> bool:
    """Whether a user can fix an error: it is then printed as one message."""
    from kdbench.methods.base import MethodError

    return isinstance(error, (*USER_ERRORS, MethodError, OSError, MemoryError))


def message_of(error: Exception) -> str:
    """What an error says; of those of the operating system, the file and its reason."""
    if isinstance(error, MemoryError):
        return f"out of memory; free some, or run fewer jobs with --jobs 1 ({error})"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def refuse_undecodable(arguments: Iterable[str]) -> None:
    """Refuse arguments of a command that are not text: rows, tables and messages could not hold them.

    Raises:
        SpecError: names the argument.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise SpecError(
                f"argument {argument!r} is not text in the encoding of this terminal; rename the file, or use UTF-8"
            ) from error
