"""A tiny COCO folder to break, and a small embedded data set to read."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kdbench import datasets
from kdbench.datasets.coco import CocoFolder

SMALL = {"train": 40, "val": 20}  # images


@dataclass
class Maker:
    """Edit `train` and `val`, then `open()`: the annotation files are written as they are by then."""

    folder: Path
    train: dict[str, Any]
    val: dict[str, Any]

    @staticmethod
    def annotation(identifier: int, image: int, category: int, **changes: Any) -> dict[str, Any]:
        given = {"id": identifier, "image_id": image, "category_id": category, "iscrowd": 0}
        return {**given, "bbox": [5.0, 6.0, 10.0, 8.0], "area": 80.0, **changes}

    def file(self, split: str) -> Path:
        return self.folder / "annotations" / f"instances_{split}.json"

    def image(self, split: str, name: str) -> Path:
        return self.folder / split / name

    def write(self) -> Path:
        for split, content in (("train", self.train), ("val", self.val)):
            self.file(split).write_text(json.dumps(content))
        return self.folder

    def open(self) -> CocoFolder:
        return datasets.open_coco("coco", self.folder.parent, self.write())


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """Two images of 40x30 pixels a split, one box each, category ids 3 and 7."""
    folder = tmp_path / "mine"
    for name in ("annotations", "train", "val"):
        (folder / name).mkdir(parents=True)
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in (11, 12)],
        "annotations": [Maker.annotation(101, 11, 3), Maker.annotation(102, 12, 7)],
        "categories": [{"id": 7, "name": "hat"}, {"id": 3, "name": "cat"}],
    }
    for split in ("train", "val"):
        for image in content["images"]:
            Image.new("RGB", (40, 30), (200, 30, 60)).save(folder / split / image["file_name"])
    return Maker(folder, copy.deepcopy(content), copy.deepcopy(content))


@pytest.fixture(scope="session")
def open_small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], CocoFolder]:
    """Every data set that can be had offline, small where it is generated."""
    root = tmp_path_factory.mktemp("data")

    def open_by_name(name: str) -> CocoFolder:
        function = importlib.import_module(f"kdbench.datasets.{name}").open_coco
        parameters = inspect.signature(function).parameters
        return datasets.open_coco(name, root, **{key: size for key, size in SMALL.items() if key in parameters})

    return open_by_name
