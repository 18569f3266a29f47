"""Data sets, one a file.

A file in this folder is a data set and its name is the file's; `base.py` and files that start with an underscore are
helpers. A data set offers one function per view it has: `open_coco(root)` is the COCO folder for detection. Nothing
else has to be edited to add one.
"""

from __future__ import annotations

import difflib
import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import DataError

if TYPE_CHECKING:
    from .coco import CocoFolder

__all__ = ["DataError", "names", "open_coco"]


def names() -> list[str]:
    """Every data set."""
    return list(_stems())


def open_coco(name: str, root: Path, path: Path | None = None, **options: Any) -> CocoFolder:
    """The data set `name` as a COCO folder: annotations parsed and checked, images listed but not yet decoded.

    Args:
        name: a data set; "digits" is prepared under `root` first if it is not there.
        root: where data sets lie (`KDBENCH_DATA`).
        path: any folder in COCO format, taken in place of `name`, which is then not looked at; the result is called
            after the folder.
        options: the data set's own, such as `train=40` for fewer training images of "digits".

    Raises:
        DataError: an unknown name (the nearest is suggested), or data that is missing or broken.
    """
    if path is not None:
        from .coco import open_folder

        return open_folder(path)
    if name not in _stems():
        raise _unknown(name)
    module = importlib.import_module(f"{__name__}.{name}")
    if not hasattr(module, "open_coco"):
        raise DataError(f"data set {name!r} has no detection boxes; give a COCO folder with --data, or use 'digits'")
    folder: CocoFolder = module.open_coco(root, **options)
    return folder


@cache
def _stems() -> tuple[str, ...]:
    stems = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(stem for stem in stems if stem != "base" and not stem.startswith("_")))


def _unknown(name: str) -> DataError:
    nearest = difflib.get_close_matches(name, _stems(), n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return DataError(f"unknown data set: {name!r}.{hint} Available: {', '.join(_stems())}")
