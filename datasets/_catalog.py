"""Data sets registered in detectron2's catalog, by name: `detectron2:TRAIN,VAL`, or `detectron2:TRAIN,VAL@MODULE`.

`MODULE` is a Python module that registers them when it is imported. Only the paths of the files come from detectron2;
they are read, checked and evaluated like those of a COCO folder.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import DataError, unknown

if TYPE_CHECKING:
    from .coco import CocoFolder

PREFIX = "detectron2:"


def is_catalog_entry(path: Path) -> bool:
    """Whether the path consists of names of the catalog."""
    return str(path).startswith(PREFIX)


def open_registered(path: Path) -> CocoFolder:
    """Two registered sets as training and validation split of a COCO folder.

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
    files = {split: _files(path, name, catalog, metadata) for split, name in (("train", train), ("val", val))}
    return open_files(path, names, files)


def _import(path: Path, module: str) -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # detectron2 is older than the installed torch
            data = importlib.import_module("detectron2.data")
            if module:
                importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"{path}: the catalog cannot be imported ({error}); install what is missing, or give a COCO folder, which "
            "does not need detectron2"
        ) from error
    return data.DatasetCatalog, data.MetadataCatalog


def _files(path: Path, name: str, catalog: Any, metadata: Any) -> tuple[Path, Path]:
    """Annotation file and image folder of a registered set."""
    if name not in catalog.list():
        raise unknown(f"set of detectron2's catalog in {path}", name, sorted(catalog.list()))
    entry = metadata.get(name)
    if not (entry.get("json_file") and entry.get("image_root")):
        raise DataError(f"{path}: {name} is not registered as COCO files; register it with register_coco_instances")
    return Path(entry.json_file), Path(entry.image_root)
