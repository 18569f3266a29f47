"""Data sets, one per file.

A file in this folder is a data set, and its name is the file's; `base.py` and files that start with an underscore are
helpers. A data set defines one function for each task: `open_coco(root)` returns a COCO folder for detection,
`open_images(root)` images and labels for classification, `open_masks(root)` images and masks for segmentation. A data
set that is not generated also defines `present(root)`, the path of its files. Adding a data set needs no other edit.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ._errors import DataError, unknown

if TYPE_CHECKING:
    from .base import ImageSet, MaskSet
    from .coco import CocoFolder

__all__ = ["DataError", "check_path", "is_generated", "names", "open_coco", "open_images", "open_masks", "present"]


def names() -> list[str]:
    """Names of all data sets."""
    return list(_stems())


def open_coco(name: str, root: Path, path: Path | None = None, **options: Any) -> CocoFolder:
    """The data set `name` as a COCO folder: annotations parsed and checked, images listed but not decoded.

    Args:
        name: a data set; "digits" is generated under `root` if it is missing.
        root: folder of all data sets (`KDBENCH_DATA`).
        path: a folder in COCO format, or `detectron2:TRAIN,VAL` for sets of detectron2's catalog; replaces `name`,
            also in the result's name.
        options: options of the data set, such as `train=40` for fewer training images of "digits".

    Raises:
        DataError: an unknown name or option (the nearest is suggested), or missing or broken data.
    """
    if path is not None:
        check_path(path)
        from . import _catalog, coco

        if options:
            raise DataError(f"{path}: detection sets have no options ({', '.join(options)}); remove them")
        return _catalog.open_registered(path) if _catalog.is_catalog_entry(path) else coco.open_folder(path)
    module = _module(name)
    if not hasattr(module, "open_coco"):
        raise DataError(f"data set {name!r} has no detection boxes; give a COCO folder with --data, or use 'digits'")
    _reject_unknown(options, _options(module.open_coco))
    folder: CocoFolder = module.open_coco(root, **options)
    return folder


def open_images(name: str, root: Path, path: Path | None = None, **options: Any) -> ImageSet:
    """The data set `name` as images and labels, checked: arrays in memory, or image files that are decoded on access.

    Args:
        name: a data set; if it is missing under `root`, "digits" is generated and CIFAR is downloaded.
        root: folder of all data sets (`KDBENCH_DATA`).
        path: an .npz file or an image folder; replaces `name`, also in the result's name.
        options: a variant: `fraction=0.25` keeps that share of the training images, `resolution=16` reduces the
            student's input, `noise=0.1` adds noise to the validation images; or options of the data set, such as
            `train=400` for fewer training images of "digits".

    Raises:
        DataError: an unknown name or option (the nearest is suggested), an invalid value, or missing or broken data.
    """
    from . import _variants

    set_options: list[str] = []
    if path is None:
        module = _module(name)
        if not hasattr(module, "open_images"):
            raise DataError(
                f"data set {name!r} has no image classes; give an .npz file or an image folder with --data, or use "
                "'digits'"
            )
        set_options = _options(module.open_images)
    else:
        check_path(path)
        set_options = ["pixels"] if path.is_dir() else []
    _reject_unknown(options, sorted((*set_options, *_variants.NAMES)))
    variant = {option: value for option, value in options.items() if option in _variants.NAMES}
    _variants.check(variant)
    if path is not None:
        data = _open_images_at(path, root)
        if "pixels" in options:
            from ._small_images import as_arrays

            data = as_arrays(data, options["pixels"], root)
    else:
        data = module.open_images(root, **{option: value for option, value in options.items() if option in set_options})
    return _variants.apply(data, variant)


def open_masks(name: str, root: Path, path: Path | None = None, **options: Any) -> MaskSet:
    """The data set `name` as images and masks: headers checked, nothing decoded.

    Args:
        name: a data set; "digits" is generated under `root` if it is missing.
        root: folder of all data sets (`KDBENCH_DATA`).
        path: a folder of images and masks; replaces `name`, also in the result's name.
        options: `ignore_index=11` for the gray level of ignored pixels in the masks of `path`; or options of the data
            set, such as `train=40` for fewer training images of "digits".

    Raises:
        DataError: an unknown name or option (the nearest is suggested), an invalid value, or missing or broken data.
    """
    if path is not None:
        from ._mask_folder import open_folder

        check_path(path)
        _reject_unknown(options, ["ignore_index"])
        return open_folder(path, **options)
    module = _module(name)
    if not hasattr(module, "open_masks"):
        raise DataError(f"data set {name!r} has no masks; give a mask folder with --data, or use 'digits'")
    _reject_unknown(options, _options(module.open_masks))
    data: MaskSet = module.open_masks(root, **options)
    return data


def present(name: str, root: Path) -> Path | None:
    """The file or folder of the data set's raw files under `root`; None if it is missing or the set is generated.

    Raises:
        DataError: an unknown name; the nearest is suggested.
    """
    module = _module(name)
    path: Path | None = module.present(root) if hasattr(module, "present") else None
    return path


def is_generated(name: str) -> bool:
    """Whether a data set is generated where it is missing, and not a set of files from elsewhere.

    Raises:
        DataError: an unknown name; the nearest is suggested.
    """
    return not hasattr(_module(name), "present")


def check_path(path: Path) -> None:
    """Check that the system can say whether `path` exists.

    Raises:
        DataError: a folder above it cannot be entered, or no file can have this name.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        name = repr(str(path)[:200])[1:-1]
        raise DataError(f"{name}: cannot be read ({reason}); give the data's folder or file") from error


def _open_images_at(path: Path, root: Path) -> ImageSet:
    if path.is_dir():
        from . import _image_folder

        return _image_folder.open_folder(path, root=root)
    if path.suffix != ".npz" or not path.exists():
        reason = "is neither an .npz file nor a folder" if path.exists() else "does not exist"
        raise DataError(f"{path}: {reason}; give an .npz file of small images, or an image folder with train/ and val/")
    from . import _arrays

    return _arrays.open_npz(path)


def _module(name: str) -> ModuleType:
    if name not in _stems():
        raise unknown("data set", name, _stems())
    return importlib.import_module(f"{__name__}.{name}")


@cache
def _stems() -> tuple[str, ...]:
    stems = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(stem for stem in stems if stem != "base" and not stem.startswith("_")))


def _options(function: Callable[..., Any]) -> list[str]:
    """The parameters of a data set's function, without `root`."""
    return list(inspect.signature(function).parameters)[1:]


def _reject_unknown(options: dict[str, Any], known: list[str]) -> None:
    for option in options:
        if option == "ignore_index" and option not in known:
            raise DataError("--ignore-index is of masks, in a mask folder that --data names; leave it out here")
        if option not in known:
            raise unknown("data option", option, known)
