"""Experiment trackers, one per file: what `--log` names.

A module of this folder that defines a `Tracker` is a tracker under the module's name. So is a user's file, and a class
that an installed package declares as an entry point of the group `kdbench.trackers`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from ..errors import SpecError, unknown
from .base import Tracker

GROUP = "kdbench.trackers"


def names() -> list[str]:
    """Trackers that come with kdbench or with an installed package."""
    shipped = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"]
    return sorted({*shipped, *entry_points(group=GROUP).names})


def tracker_class(name: str) -> type[Tracker]:
    """The class of a tracker, whose library is there and ready for use.

    Args:
        name: one of `names`, or the path of a file that defines a tracker.

    Raises:
        SpecError: no such tracker or file, it defines none, or its library is missing or not set up.
    """
    found = _from_file(Path(name)) if name.endswith(".py") else _by_name(name)
    if found.requires:
        try:
            importlib.import_module(found.requires)
        except ImportError as error:
            fix = f"pip install 'kdbench[{name}]'" if name in names() else f"pip install {found.requires}"
            raise SpecError(f"--log {name}: {found.requires} cannot be imported ({error}): {fix}") from error
    found.check()
    return found


def tracker_classes(chosen: Sequence[str]) -> tuple[type[Tracker], ...]:
    """The classes of several trackers, each once.

    Raises:
        SpecError: as `tracker_class`.
    """
    return tuple(tracker_class(name) for name in dict.fromkeys(chosen))


def check_trackers(chosen: Sequence[str], log_dir: Path | None) -> None:
    """Refuse trackers that cannot be used, before any work.

    Raises:
        SpecError: as `tracker_class`, or a folder without a tracker that could write to it.
    """
    if log_dir is not None and not chosen:
        raise SpecError(f"--log-dir {log_dir} is for the files of trackers; name one, as in --log tensorboard")
    if log_dir is not None and log_dir.exists() and not log_dir.is_dir():
        raise SpecError(f"--log-dir {log_dir} is a file; name a folder")
    tracker_classes(chosen)


def _by_name(name: str) -> type[Tracker]:
    if name not in names():
        raise unknown("tracker", name, names())
    points = entry_points(group=GROUP, name=name)
    if not points:
        return _class_in(importlib.import_module(f"{__name__}.{name}"), name)
    [point] = points
    try:
        found = point.load()
    except Exception as error:
        raise SpecError(f"--log {name}: {point.value}: {type(error).__name__}: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Tracker)):
        raise SpecError(f"--log {name}: {point.value} is no subclass of kdbench.trackers.base.Tracker")
    return _complete(found, name)


def _from_file(path: Path) -> type[Tracker]:
    if not path.is_file():
        raise SpecError(f"--log {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"kdbench_user_trackers.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SpecError(f"--log {path}: cannot be imported: {type(error).__name__}: {error}") from error
    return _class_in(module, str(path))


def _class_in(module: ModuleType, place: str) -> type[Tracker]:
    """The one tracker that a module defines."""
    classes = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, Tracker) and each.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise SpecError(f"--log {place}: defines {len(classes)} subclasses of kdbench.trackers.base.Tracker, not one")
    return _complete(classes[0], place)


def _complete(found: type[Tracker], place: str) -> type[Tracker]:
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise SpecError(f"--log {place}: {found.__name__} does not define {', '.join(missing)}")
    return found
