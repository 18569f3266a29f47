"""Data sets, one a file.

A file in this folder is a data set and its name is the file's; `base.py` and files that start with an underscore are
helpers. A data set offers one function per view it has: `open_coco(root)` is the COCO folder for detection,
`open_images(root)` the images and labels for classification, `open_masks(root)` the images and masks for segmentation.
One that reads what somebody has put on disk also offers `present(root)`, which says where that lies. Nothing else has
to be edited to add one.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .base import DataError

if TYPE_CHECKING:
    from .base import ImageSet, MaskSet
    from .coco import CocoFolder

__all__ = ["DataError", "names", "open_coco", "open_images", "open_masks", "present"]


def names() -> list[str]:
    """Every data set."""
    return list(_stems())


def open_coco(name: str, root: Path, path: Path | None = None, **options: Any) -> CocoFolder:
    """The data set `name` as a COCO folder: annotations parsed and checked, images listed but not yet decoded.

    Args:
        name: a data set; "digits" is prepared under `root` first if it is not there.
        root: where data sets lie (`KDBENCH_DATA`).
        path: any folder in COCO format, or `detectron2:TRAIN,VAL` of that library's catalog, taken in place of `name`,
            which is then not looked at; the result is called after it.
        options: the data set's own, such as `train=40` for fewer training images of "digits".

    Raises:
        DataError: an unknown name or option (the nearest is suggested), or data that is missing or broken.
    """
    if path is not None:
        from . import _catalog, coco

        if options:
            raise DataError(f"{path}: detection sets have no options ({', '.join(options)}); remove them")
        return _catalog.open_registered(path) if _catalog.named(path) else coco.open_folder(path)
    module = _module(name)
    if not hasattr(module, "open_coco"):
        raise DataError(f"data set {name!r} has no detection boxes; give a COCO folder with --data, or use 'digits'")
    known = tuple(inspect.signature(module.open_coco).parameters)[1:]
    for option in options:
        if option not in known:
            raise _unknown("data option", option, known)
    folder: CocoFolder = module.open_coco(root, **options)
    return folder


def open_images(name: str, root: Path, path: Path | None = None, **options: Any) -> ImageSet:
    """The data set `name` as images and labels, checked: arrays in memory, or files that are decoded when asked for.

    Args:
        name: a data set; "digits" is prepared under `root` first if it is not there, CIFAR is downloaded.
        root: where data sets lie (`KDBENCH_DATA`).
        path: an .npz file or an image folder, taken in place of `name`, which is then not looked at; the result is
            called after it.
        options: a variant: `fraction=0.25` keeps that share of the training images, `resolution=16` reduces the
            student's input, `noise=0.1` disturbs the validation images; or the data set's own, such as `train=400`
            for fewer training images of "digits".

    Raises:
        DataError: an unknown name or option (the nearest is suggested), an option that does not fit, or data that is
            missing or broken.
    """
    from . import _variants

    own: list[str] = []
    if path is None:
        module = _module(name)
        if not hasattr(module, "open_images"):
            raise DataError(
                f"data set {name!r} has no image classes; give an .npz file or an image folder with --data, or use "
                "'digits'"
            )
        own = list(inspect.signature(module.open_images).parameters)[1:]
    for option in options:
        if option not in own and option not in _variants.NAMES:
            raise _unknown("data option", option, tuple(sorted((*own, *_variants.NAMES))))
    variant = {option: value for option, value in options.items() if option in _variants.NAMES}
    _variants.check(variant)
    if path is not None:
        data = _open_images_at(path)
    else:
        data = module.open_images(root, **{option: value for option, value in options.items() if option in own})
    return _variants.apply(data, variant)


def open_masks(name: str, root: Path, path: Path | None = None, **options: Any) -> MaskSet:
    """The data set `name` as images and masks: headers checked, nothing decoded yet.

    Args:
        name: a data set; "digits" is prepared under `root` first if it is not there.
        root: where data sets lie.
        path: a folder of images and masks, taken in place of `name`, which is then not looked at; the result is called
            after it.
        options: `ignore_index=11` for a `path` whose masks say void so; else the data set's own, such as `train=40` for
            fewer training images of "digits".

    Raises:
        DataError: an unknown name or option (the nearest is suggested), an option that does not fit, or data that is
            missing or broken.
    """
    if path is not None:
        from ._mask_folder import open_folder

        known = ["ignore_index"]
    else:
        module = _module(name)
        if not hasattr(module, "open_masks"):
            raise DataError(f"data set {name!r} has no masks; give a mask folder with --data, or use 'digits'")
        known = list(inspect.signature(module.open_masks).parameters)[1:]
    for option in options:
        if option not in known:
            raise _unknown("data option", option, tuple(known))
    data: MaskSet = open_folder(path, **options) if path is not None else module.open_masks(root, **options)
    return data


def present(name: str, root: Path) -> Path | None:
    """The file or folder under `root` that the data set's raw files are; None if it has none there, or needs none.

    Raises:
        DataError: an unknown name; the nearest is suggested.
    """
    module = _module(name)
    found: Path | None = module.present(root) if hasattr(module, "present") else None
    return found


def _open_images_at(path: Path) -> ImageSet:
    if path.is_dir():
        from . import _image_folder

        return _image_folder.open_folder(path)
    if path.suffix != ".npz" or not path.exists():
        what = "is neither an .npz file nor a folder" if path.exists() else "does not exist"
        raise DataError(f"{path}: {what}; give an .npz file of small images, or an image folder with train/ and val/")
    from . import _arrays

    return _arrays.open_npz(path)


def _module(name: str) -> ModuleType:
    if name not in _stems():
        raise _unknown("data set", name, _stems())
    return importlib.import_module(f"{__name__}.{name}")


@cache
def _stems() -> tuple[str, ...]:
    stems = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(stem for stem in stems if stem != "base" and not stem.startswith("_")))


def _unknown(what: str, name: str, known: tuple[str, ...]) -> DataError:
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return DataError(f"unknown {what}: {name!r}.{hint} Available: {', '.join(known) or 'none'}")
