"""Layouts of detection folders: COCO's own, the COCO exports of labeling tools, and formats to be converted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import _voc
from ._errors import DataError
from ._voc import VALIDATION

COCO = "annotations/instances_train*.json and instances_val*.json with image folders train*/ and val*/ beside"
Files = tuple[Path, Path]
"""Annotation file and image folder."""

_EXPORTS = {
    "_annotations.coco.json": ("Roboflow", ""),
    "labels.json": ("FiftyOne", "data"),
    "result.json": ("Label Studio", ""),
}
"""Tool and image folder by the name of its COCO file, which is in the folder of a split or of the whole export."""

_OTHER_FORMATS = {
    "_annotations.csv": "boxes in a CSV file",
    "_annotations.createml.json": "a CreateML export",
    "_annotations.txt": "a YOLO text export",
    "via_project.json": "a project of the VGG Image Annotator",
}


@dataclass(frozen=True)
class Layout:
    """A detection folder's layout.

    Attributes:
        description: what it is, such as "a Roboflow export".
        files: of "train" and "val"; empty where the folder cannot be read as it is.
        problem: why it cannot, and the fix.
        notices: what was chosen, one line each.
    """

    description: str
    files: dict[str, Files]
    problem: str = ""
    notices: tuple[str, ...] = ()


def validation_folder(path: Path) -> str:
    """The name of the folder of validation images in `path`; "val" if there is none."""
    return next((name for name in VALIDATION if (path / name).is_dir()), "val")


def validation_notices(path: Path, name: str) -> tuple[str, ...]:
    """That the folder `name` in `path` is used for validation, where it is not called val."""
    if name == "val":
        return ()
    unused = f", {path / 'test'} is not used" if name != "test" and (path / "test").is_dir() else ""
    return (f"{path / name} is used for validation{unused}",)


def detect(path: Path) -> Layout | None:
    """The layout of the folder `path`; None if nothing in it has boxes.

    Raises:
        DataError: a folder cannot be listed.
    """
    if not path.is_dir():
        return None
    layouts = (look(path) for look in (_coco, _export_of_splits, _single_export, _pascal_voc, _yolo, _other, _empty))
    try:
        return next((layout for layout in layouts if layout is not None), None)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); allow reading it") from error


def _coco(path: Path) -> Layout | None:
    """COCO's own layout, or CVAT's, whose image folders are in images/."""
    folder = path / "annotations"
    if not folder.is_dir() or (any(folder.iterdir()) and not any(folder.glob("*.json"))):
        return None
    try:
        files = {"train": _instances(path, ("train",)), "val": _instances(path, VALIDATION)}
    except DataError as error:
        return Layout("a COCO folder", {}, str(error))
    used = files["val"][1].name
    return Layout("a COCO folder", files, notices=validation_notices(path, "test") if used.startswith("test") else ())


def _instances(path: Path, names: tuple[str, ...]) -> Files:
    """The only annotation file of a split, which may have these names, and its image folder."""
    folder = path / "annotations"
    for split in names:
        files = sorted(folder.glob(f"instances_{split}*.json")) or sorted(folder.glob(f"{split}.json"))
        if len(files) > 1:
            listed = ", ".join(file.name for file in files)
            raise DataError(f"{folder}: {listed} all match {split}; keep one of them and remove the others")
        if files:
            name = files[0].stem.removeprefix("instances_")
            nested = path / "images" / name
            return files[0], nested if nested.is_dir() and not (path / name).is_dir() else path / name
    present = ", ".join(sorted(file.name for file in folder.glob("*.json"))[:3])
    raise DataError(
        f"{folder}/instances_{names[0]}*.json: missing; a COCO folder has {COCO}, and this one has "
        f"{present or 'none'}: export the splits separately (in CVAT as subsets named train and val), or rename "
        "the files"
    )


def _export_of_splits(path: Path) -> Layout | None:
    """The export of a labeling tool with a folder for each split."""
    for marker, (tool, images) in _EXPORTS.items():
        names = [name for name in ("train", *VALIDATION) if (path / name / marker).is_file()]
        if not names:
            continue
        description = f"a {tool} export"
        if names[0] != "train" or len(names) < 2:
            missing = "train" if names[0] != "train" else "val"
            return Layout(
                description,
                {},
                f"{path / missing / marker}: missing; {description} has one in train/ and one in val/ or valid/: "
                "export both splits",
            )
        files = {
            split: (path / name / marker, path / name / images)
            for split, name in (("train", names[0]), ("val", names[1]))
        }
        return Layout(description, files, notices=validation_notices(path, names[1]))
    return None


def _single_export(path: Path) -> Layout | None:
    """The export of a labeling tool as a single split."""
    for marker, (tool, images) in _EXPORTS.items():
        if (path / marker).is_file():
            beside = f" and {images}/" if images else " and its images"
            return Layout(
                f"a {tool} export",
                {},
                f"{path / marker}: COCO annotations of a {tool} export of a single split; export a training and a "
                f"validation split, and put {marker}{beside} of each into {path / 'train'} and {path / 'val'}",
            )
    return None


def _pascal_voc(path: Path) -> Layout | None:
    """VOC's own layout, which may be in VOCdevkit/VOC2012/, or XML files in a folder of each split."""
    description = "Pascal VOC annotations (an XML file an image)"
    roots = [root for root in (path, *sorted(path.glob("VOCdevkit/*"))) if root.is_dir()]
    splits = [found for root in roots if (found := _voc.find(root))]
    whole = [found for found in splits if len(found) == 2]
    if len(whole) > 1:
        folders = " and ".join(str(found["train"][0].parents[2]) for found in whole)
        return Layout(description, {}, f"{path}: {folders} are data sets of their own; give one of them")
    if whole:
        name = whole[0]["val"][0].stem
        notices = (f"{whole[0]['val'][0]} is used for validation",) if name not in ("val", "labels") else ()
        return Layout(description, whole[0], notices=notices)
    file = _first(path, ("Annotations", "annotations", "train", "train/labels", "valid", "labels"), "*.xml")
    if file is None:
        return None
    missing = " and ".join(sorted({"train", "val"} - set(splits[0] if splits else ())))
    problem = f"{file}: {description} without a list of images for {missing}; a VOC folder has {_voc.LAYOUT}"
    return Layout(description, {}, problem)


def _yolo(path: Path) -> Layout | None:
    """YOLO's text labels: an image's class number and box as fractions in each line."""
    folders = ("labels", "labels/train", "labels/train2017", "train/labels", "valid/labels", "obj_train_data")
    file = _first(path, folders, "*.txt")
    return _to_convert(file, "YOLO text labels (class x y width height, as fractions)", "YOLOv5Dataset")


def _other(path: Path) -> Layout | None:
    for folder in (path, path / "train"):
        for name, description in _OTHER_FORMATS.items():
            if (folder / name).is_file():
                return Layout(description, {}, f"{folder / name}: {description}; export or convert it as COCO: {COCO}")
    return None


def _empty(path: Path) -> Layout | None:
    """A folder annotations/ without any annotation file, beside something else than class folders."""
    if not (path / "annotations").is_dir() or (path / "train").is_dir():
        return None
    return Layout("a COCO folder", {}, f"{path}/annotations/instances_train*.json: missing; a COCO folder has {COCO}")


def _to_convert(file: Path | None, description: str, kind: str) -> Layout | None:
    if file is None:
        return None
    problem = (
        f"{file}: {description}, which are not read; convert them to COCO, {COCO}; for example each split with "
        f"fiftyone convert --input-type fiftyone.types.{kind} --output-type fiftyone.types.COCODetectionDataset"
    )
    return Layout(description, {}, problem)


def _first(path: Path, folders: tuple[str, ...], pattern: str) -> Path | None:
    """The first file of this kind in one of the folders, which may lie in a folder below `path`."""
    roots: Iterator[Path] = (root for root in (path, *sorted(path.glob("VOCdevkit/*"))) if root.is_dir())
    return next((file for root in roots for folder in folders for file in sorted((root / folder).glob(pattern))), None)
