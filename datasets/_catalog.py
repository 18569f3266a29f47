"""Data sets registered in detectron2's catalog, by name: `detectron2:TRAIN,VAL`, or `detectron2:TRAIN,VAL@MODULE`.

`MODULE` is a Python module that registers them when it is imported. detectron2 is asked where the files lie and for
nothing else: they are read, checked and evaluated as those of any COCO folder.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import DataError

if TYPE_CHECKING:
    from .coco import CocoFolder

PREFIX = "detectron2:"


def named(path: Path) -> bool:
    """Whether a path is in truth names of the catalog."""
    return str(path).startswith(PREFIX)


def open_registered(path: Path) -> CocoFolder:
    """Two registered sets, one to train on and one to evaluate on.

    Raises:
        DataError: detectron2 or the module cannot be imported; a set is not registered (the nearest is suggested) or
            is not in COCO format; or its files are missing or broken.
    """
    from .coco import open_files

    names, _, module = str(path).removeprefix(PREFIX).partition("@")
    train, comma, val = names.partition(",")
    if not (train and comma and val):
        raise DataError(f"{path}: name a registered set to train on and one to evaluate on, as in {PREFIX}TRAIN,VAL")
    catalog, metadata = _import(path, module)
    places = {kind: _place(path, name, catalog, metadata) for kind, name in (("train", train), ("val", val))}
    return open_files(path, names, places)


def _import(path: Path, module: str) -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # detectron2 is older than the torch that is here
            data = importlib.import_module("detectron2.data")
            if module:
                importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"{path}: its catalog cannot be asked ({error}); install what is missing, or give a COCO folder, which "
            "needs nothing of detectron2"
        ) from error
    return data.DatasetCatalog, data.MetadataCatalog


def _place(path: Path, name: str, catalog: Any, metadata: Any) -> tuple[Path, Path]:
    """Annotation file and image folder of a registered set."""
    from . import _unknown

    if name not in catalog.list():
        raise _unknown(f"set of detectron2's catalog in {path}", name, tuple(sorted(catalog.list())))
    about = metadata.get(name)
    if not (about.get("json_file") and about.get("image_root")):
        raise DataError(f"{path}: {name} is not registered as COCO files; register it with register_coco_instances")
    return Path(about.json_file), Path(about.image_root)
