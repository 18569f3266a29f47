"""kdbench: a benchmark harness that reproduces knowledge-distillation papers' tables.

`import kdbench` loads nothing heavy; torch and pandas are imported by the function that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import compare, evaluate, load_student, load_table, plan, rows, run

    __version__: str

__all__ = ["__version__", "compare", "evaluate", "load_student", "load_table", "plan", "rows", "run"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kdbench")
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module 'kdbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
