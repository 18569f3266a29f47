"""Pascal VOC annotations, an XML file an image, as the content of a COCO file.

Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010, http://host.robots.ox.ac.uk/pascal/VOC/.
A split is the list of its images, `ImageSets/Main/<split>.txt` beside `Annotations/` and `JPEGImages/`, or a folder of
XML files, as labeling tools write it. Classes are the names that occur in either split, sorted. Corners are as in the
files; in VOC's own files, which count pixels from 1, the first corner is moved by one pixel. Difficult objects are
crowds: they are not trained on, and what is detected there counts neither way.
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _files
from ._errors import DataError
from ._images import files_in

VALIDATION = ("val", "valid", "validation", "test")
"""Names of the validation split, by preference."""

LISTS = Path("ImageSets", "Main")
XML_FOLDERS, IMAGE_FOLDERS = ("", "labels", "Annotations"), ("", "data", "images")
"""In the folder of a split: Roboflow's, FiftyOne's and others'."""

LAYOUT = (
    "ImageSets/Main/train.txt and val.txt with Annotations/ and JPEGImages/ beside ImageSets/, or folders train/ and "
    "val/ (or valid/) with XML files and images"
)
MAX_BYTES = 2**26  # of one XML file
FROM_ONE = "The VOC"
"""How the name of the database begins in files whose pixels count from 1."""

Files = tuple[Path, Path]
"""List or folder of annotations, and image folder."""


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]  # x, y, width, height
    difficult: bool


@dataclass(frozen=True)
class _Image:
    name: str
    size: tuple[int, int]  # width, height
    objects: tuple[_Object, ...]


def find(root: Path) -> dict[str, Files]:
    """The splits "train" and "val" that there are in a folder.

    Raises:
        OSError: a folder cannot be listed.
    """
    found: dict[str, Files] = {}
    for split, names in (("train", ("train",)), ("val", VALIDATION)):
        files = next(filter(None, (_split(root, name) for name in names)), None)
        if files is not None:
            found[split] = files
    return found


def _split(root: Path, name: str) -> Files | None:
    if (root / "Annotations").is_dir():
        names = root / LISTS / f"{name}.txt"
        return (names, root / "JPEGImages") if names.is_file() else None
    folders = (root / name / inner for inner in XML_FOLDERS)
    annotations = next((folder for folder in folders if any(folder.glob("*.xml"))), None)
    if annotations is None:
        return None
    images = [root / name / inner for inner in IMAGE_FOLDERS[1:] if (root / name / inner).is_dir()]
    return annotations, images[0] if images else root / name


def is_split(file: Path) -> bool:
    """Whether an annotation file of a layout is one of `find`."""
    return file.suffix == ".txt" or file.is_dir()


def content(split: Path) -> tuple[dict[str, Any], str]:
    """The images, annotations and categories of a split, and the sha256 of its XML files, hex.

    Args:
        split: a list or folder of annotations that `find` has returned.

    Raises:
        DataError: an annotation is missing or broken.
    """
    root = split.parents[len(LISTS.parts)] if split.suffix == ".txt" else _root(split)
    digest = hashlib.sha256()
    parsed = {files[0]: list(_images(files[0], digest if files[0] == split else None)) for files in find(root).values()}
    names = sorted({found.name for images in parsed.values() for image in images for found in image.objects})
    if not names:
        raise DataError(f"{split}: none of its images has an object; annotate some")
    categories = {name: number for number, name in enumerate(names, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, image in enumerate(parsed[split], 1):
        images.append({"id": i, "file_name": image.name, "width": image.size[0], "height": image.size[1]})
        for each in image.objects:
            ids = {"id": len(annotations) + 1, "image_id": i, "category_id": categories[each.name]}
            area = each.box[2] * each.box[3]
            annotations.append({**ids, "bbox": list(each.box), "area": area, "iscrowd": int(each.difficult)})
    listed = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": listed}, digest.hexdigest()


def _root(folder: Path) -> Path:
    """The folder of the splits, of which one has its XML files in `folder`."""
    return folder.parent.parent if folder.name in XML_FOLDERS else folder.parent


def _images(split: Path, digest: Any) -> Iterator[_Image]:
    for name, file in _xml_files(split):
        try:
            raw = _files.read_bytes(file, MAX_BYTES)
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read ({error.strerror}); {split} lists its image: restore it, or remove the image"
            ) from error
        if digest is not None:
            digest.update(f"{name}\0{len(raw)}\0".encode() + raw)
        yield _image(file, name, raw)


def _xml_files(split: Path) -> list[tuple[str, Path]]:
    """The name of each image of a split, without suffix, and its XML file."""
    try:
        if split.is_dir():
            names = sorted(name.removesuffix(".xml") for name in files_in(split) if name.endswith(".xml"))
            return [(name, split / f"{name}.xml") for name in names if not name.startswith(".")]
        lines = _files.read_bytes(split).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{split}: is not UTF-8 text; write the name of an image, without suffix, in each line"
        ) from error
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); a VOC folder has {LAYOUT}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{split}: lists no image; write the name of one, without suffix, in each line")
    folder = split.parents[len(LISTS.parts)] / "Annotations"
    return [(name, folder / f"{name}.xml") for name in names]


def _image(file: Path, name: str, raw: bytes) -> _Image:
    try:
        if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
            raise DataError(f"{file}: defines XML entities, which are not read; remove its DOCTYPE")
        root = ET.fromstring(raw)
    except ET.ParseError as error:
        raise DataError(f"{file}: is not valid XML ({error}); restore or export it again") from error
    width, height = (_number(file, root, f"size/{side}") for side in ("width", "height"))
    if min(width, height) < 1:
        raise DataError(f"{file}: size is {width:g}x{height:g} pixels; write the width and height of the image")
    first = 1.0 if (root.findtext("source/database") or "").strip().startswith(FROM_ONE) else 0.0
    suffix = Path((root.findtext("filename") or "").strip()).suffix or ".jpg"
    objects = tuple(_object(file, each, first) for each in root.findall("object"))
    return _Image(name + suffix, (int(width), int(height)), objects)


def _object(file: Path, element: ET.Element, first: float) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{file}: an object has no name; write its class")
    left, top, right, bottom = (_number(file, element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
    left, top = left - first, top - first
    difficult = (element.findtext("difficult") or "0").strip().lower() in ("1", "true", "yes")
    return _Object(name, (left, top, right - left, bottom - top), difficult)


def _number(file: Path, element: ET.Element, path: str) -> float:
    text = (element.findtext(path) or "").strip()
    try:
        return float(text)
    except ValueError:
        what = element.findtext("name") or "the image"
        raise DataError(f"{file}: {path} of {what.strip()} is {text[:80]!r}; write a number of pixels") from None
