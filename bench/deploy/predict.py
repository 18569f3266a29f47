"""Predictions of a saved student for image files: JSON, masks and drawn pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from kdbench.datasets import DataError, _images

from ..errors import SpecError
from ..networks.base import Detector
from ..records.atomic import write_atomically, writing
from ..records.by_name import link_name
from ..tasks.base import Task
from ..text import counted
from . import drawing
from .out import check_free, check_out
from .preprocessing import Prepared, preprocessing
from .saved import DataPlace, SavedStudent, find_student, open_task

PREDICTIONS = Path("results/predictions")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2", ".avif")
TOP = 5
FILE = "predictions.json"
Log = Callable[[str], None]


def predict(
    results: Path,
    run: str,
    images: Sequence[Path],
    place: DataPlace,
    out: Path | None = None,
    min_score: float = 0.3,
    log: Log = lambda _: None,
) -> list[Path]:
    """Predict images, each prepared as evaluation prepares it; returns the paths that were written.

    Args:
        results: folder of runs.
        run: the run's hash, or its first digits.
        images: files, and folders whose image files are taken.
        place: of the run's data, for the names and colours of classes and the normalisation.
        out: folder; None for one named after the run below `PREDICTIONS`.
        min_score: least score of boxes that are drawn; all are in the JSON.
        log: receives what is done.

    Raises:
        SpecError: the run is not done, `out` is a file, or there is no image.
        CheckpointError: the weights are missing or damaged.
        DataError: an image cannot be read; before anything is predicted, unless only decoding shows that.
        StoreError: the folder cannot be written.
    """
    student = find_student(results, run)
    folder = out or PREDICTIONS / link_name(student.title, student.row.id)
    check_out(folder)
    files = image_files(images)
    _check_free(folder, files)
    task = open_task(student, place)
    prepare = preprocessing(student, task)
    palette = drawing.palette(len(student.classes), _colors(student, task))
    log(f"{counted(len(files), 'image')}, {student.row.run.student} of run {student.row.id}")
    for file in files.values():
        with _named(file):
            header = _images.header(file)
            prepare.check_size(header.width, header.height)
    with writing(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    pictures: list[Path] = []
    content = {"run": student.row.id, "name": student.title, "task": student.task, "classes": student.classes}
    path = folder / FILE
    try:
        for name, file in files.items():
            image = _read(file)
            with _named(file):
                prepared = prepare.apply(image)
            prediction, *drawn = _PREDICTORS[student.task](student, image, prepared, palette, min_score)
            entry = {"image": str(file), "width": image.width, "height": image.height, **prediction}
            for key, suffix, picture in zip(("picture", "mask"), ("", "-mask"), drawn, strict=True):
                if picture is not None:
                    pictures.append(_saved(picture, folder / f"{name}{suffix}.png"))
                    entry[key] = pictures[-1].name
            found.append(entry)
    finally:  # an image that is damaged inside leaves the predictions of those before it
        write_atomically(path, json.dumps({**content, "predictions": found}, indent=1).encode() + b"\n")
    return [path, *pictures]


def _check_free(folder: Path, files: Mapping[str, Path]) -> None:
    """Refuse a folder in which a picture would replace an image or another file.

    Raises:
        SpecError: names it.
    """
    pictures = [f"{name}{suffix}.png" for name in files for suffix in ("", "-mask")]
    images = {file.resolve() for file in files.values()}
    for name in pictures:
        if (folder / name).resolve() in images:
            raise SpecError(f"--out {folder}: would replace the image {folder / name}; give another folder")
    check_free(folder, pictures, FILE)


def _saved(picture: Image.Image, path: Path) -> Path:
    with writing(path, "--out"):
        picture.save(path)
    return path


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Errors of an image with its file's name."""
    try:
        yield
    except DataError as error:
        raise error if str(error).startswith(str(file)) else DataError(f"{file}: {error}") from error


def image_files(paths: Sequence[Path]) -> dict[str, Path]:
    """The image files among paths and in folders, by a name that each has alone; every one can be opened.

    Raises:
        SpecError: a path does not exist, or a folder has no image.
        DataError: a file is no image, or is truncated.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
            if not inside:
                raise SpecError(f"{path} has no image file ({', '.join(SUFFIXES)})")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise SpecError(f"{path} does not exist; give image files, or folders of them")
    named: dict[str, Path] = {}
    for file in files:
        _images.header(file)
        if not _images.is_complete(file):
            raise DataError(f"{file}: is truncated; copy or download the image again")
        names = (file.stem if i == 1 else f"{file.stem}-{i}" for i in range(1, len(files) + 1))
        named[next(name for name in names if name not in named)] = file
    return named


def _read(file: Path) -> Image.Image:
    """An image in RGB, upright as its orientation tag says."""
    with _images.opened(file) as image:
        upright = ImageOps.exif_transpose(image)
        return _images.rgb(file, upright)


def _colors(student: SavedStudent, task: Task | str) -> Sequence[drawing.Color] | None:
    """The colors of a segmentation set's classes."""
    return task.data.colors if student.task == "segmentation" and isinstance(task, Task) else None


Predicted = tuple[dict[str, Any], Image.Image | None, Image.Image | None]
"""What the JSON says, the drawn picture, and the mask."""


@torch.inference_mode()
def _classes(
    student: SavedStudent, image: Image.Image, prepared: Prepared, palette: drawing.Palette, min_score: float
) -> Predicted:
    probabilities = student.network.infer(prepared.image)[0].softmax(0)
    best = probabilities.topk(min(TOP, len(student.classes)))
    top = [
        {"class": student.classes[index], "index": index, "score": score}
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return {"class": top[0]["class"], "score": top[0]["score"], "top": top}, drawing.captioned(image, top), None


@torch.inference_mode()
def _boxes(
    student: SavedStudent, image: Image.Image, prepared: Prepared, palette: drawing.Palette, min_score: float
) -> Predicted:
    (found,) = cast(Detector, student.network).detect(prepared.image, [prepared.size])
    height, width = prepared.size
    scale = torch.tensor([image.width / width, image.height / height]).repeat(2)
    boxes = [
        {"class": student.classes[label], "index": label, "score": score, "box": box}
        for box, score, label in zip(
            (found["boxes"] * scale).tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True
        )
    ]
    shown = [box for box in boxes if box["score"] >= min_score]
    return {"boxes": boxes}, drawing.with_boxes(image, shown, palette), None


@torch.inference_mode()
def _mask(
    student: SavedStudent, image: Image.Image, prepared: Prepared, palette: drawing.Palette, min_score: float
) -> Predicted:
    logits = student.network.infer(prepared.image)
    enlarged = F.interpolate(logits, (image.height, image.width), mode="bilinear", align_corners=True)
    classes = enlarged[0].max(0).indices
    mask = drawing.mask(classes.to(torch.uint8).numpy(), palette)
    counts = classes.flatten().bincount(minlength=len(student.classes)).tolist()
    shares = {name: count / classes.numel() for name, count in zip(student.classes, counts, strict=True) if count}
    return {"shares": shares}, drawing.overlaid(image, mask, student.classes, counts, palette), mask


_PREDICTORS: dict[str, Callable[..., Predicted]] = {
    "classification": _classes,
    "detection": _boxes,
    "segmentation": _mask,
}
