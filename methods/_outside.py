"""Methods that are not in this folder: files of a user, and installed packages that declare them."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ._errors import MethodError

if TYPE_CHECKING:
    from .base import Method

GROUP = "kdbench.methods"
"""Entry points of packages: a method's name, and the class as `module:Class`."""

_files: dict[str, Path] = {}


def register(path: Path, taken: tuple[str, ...]) -> str:
    """Make the method in a user's file known under the file's name; returns that name.

    Args:
        path: of a Python file with a `Method` subclass whose `name` is the file's.
        taken: names of methods that come with kdbench.

    Raises:
        MethodError: no such file, a name that is taken, or a file that cannot be imported or has no such class.
    """
    path = path.resolve()
    name = path.stem
    if _files.get(name) == path:
        return name
    if not path.is_file():
        raise MethodError(f"{path}: no such file")
    if not name.isidentifier():
        raise MethodError(f"{path}: a method has its file's name, and {name!r} is no name in Python; rename the file")
    if name in taken or name in _declared_by_packages():
        raise MethodError(f"{path}: there is a method {name} already; rename the file and the `name` of its class")
    if name in _files:
        raise MethodError(f"{path}: {_files[name]} has a method {name} already; rename one of them")
    _class_in(import_file(path), name, str(path))
    _files[name] = path
    return name


def names() -> tuple[str, ...]:
    """Names of registered files and of installed packages' methods."""
    return tuple(sorted({*_files, *_declared_by_packages()}))


def file_of(name: str) -> Path | None:
    """The file of a registered method, or of the module in which a package has it."""
    if name in _files:
        return _files[name]
    point = _declared_by_packages().get(name)
    source = inspect.getsourcefile(point.load()) if point else None
    return Path(source) if source else None


def load(name: str) -> type[Method]:
    """The class of a method of `names`.

    Raises:
        MethodError: its file or package cannot be imported or has no such class.
    """
    from .base import Method

    if name in _files:
        return _class_in(import_file(_files[name]), name, str(_files[name]))
    point = _declared_by_packages()[name]
    try:
        value = point.load()
    except Exception as error:
        raise MethodError(f"method {name} of {point.value}: {type(error).__name__}: {error}") from error
    if not (inspect.isclass(value) and issubclass(value, Method) and vars(value).get("name") == name):
        raise MethodError(f"{point.value}: is no subclass of kdbench.methods.base.Method with name = {name!r}")
    return _complete(value, point.value)


@cache
def _declared_by_packages() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


@cache
def import_file(path: Path, namespace: str = "kdbench_user_methods") -> ModuleType:
    """A user's file as a module of its own; other modules beside it are imported by their plain names.

    Raises:
        MethodError: it cannot be imported; names its line.
    """
    spec = importlib.util.spec_from_file_location(f"{namespace}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise MethodError(f"{path}: is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may end itself
        del sys.modules[spec.name]
        where = _line(error, path)
        raise MethodError(f"{path}{where}: cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _line(error: BaseException, path: Path) -> str:
    """`:12`, the last line of the file that was running when an error was raised; empty where none was."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    lines, traceback = [], error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return f":{lines[-1]}" if lines else ""


def _class_in(module: ModuleType, name: str, place: str) -> type[Method]:
    from .base import Method

    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Method)]
    for value in classes:
        if vars(value).get("name") == name:
            return _complete(value, place)
    own = [value for value in classes if value.__module__ == module.__name__]
    if own:
        said = ", ".join(f"{each.__name__} has name = {vars(each).get('name')!r}" for each in own)
        raise MethodError(f"{place}: no Method in it has the file's name {name!r} ({said}); rename one of the two")
    raise MethodError(f"{place}: defines no subclass of kdbench.methods.base.Method with name = {name!r}")


def _complete(value: type[Method], place: str) -> type[Method]:
    """The class, if it has everything without which it cannot be listed or built."""
    from .base import VIEWS

    tasks = getattr(value, "tasks", None)
    if not isinstance(tasks, frozenset) or not all(isinstance(task, str) for task in tasks):
        has = "has no `tasks`" if tasks is None else f"has tasks = {tasks!r}"
        raise MethodError(f'{place}: {value.__name__} {has}; write tasks = frozenset({{"classification"}})')
    if not isinstance(getattr(value, "citation", None), str):
        raise MethodError(f'{place}: {value.__name__} has no `citation`; write citation = "Authors. Title. Year. URL"')
    if not isinstance(value.views, tuple) or not set(value.views) <= set(VIEWS):
        example = f"views = ({VIEWS[0]!r},)"
        raise MethodError(
            f"{place}: {value.__name__} has views = {value.views!r}; write a tuple, such as {example}, of the names "
            f"{', '.join(VIEWS)}"
        )
    if missing := sorted(getattr(value, "__abstractmethods__", ())):
        raise MethodError(f"{place}: {value.__name__} does not define {', '.join(f'`{each}`' for each in missing)}")
    return value
