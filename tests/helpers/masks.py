"""Mask folders of a few small pictures, shared by the tests of segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kdbench import datasets
from kdbench.datasets.base import IGNORE_INDEX, MaskSet
from kdbench.methods.base import NetworkInfo, Outputs
from kdbench.networks.base import Network
from kdbench.spec.recipe import Recipe
from kdbench.tasks.segmentation import SegmentationTask

CPU = torch.device("cpu")
CLASSES = ("sky", "road", "tree", "car")
Picture = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def shade(classes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An image that says of every pixel what class it shows: red is 10 times that."""
    red = (10 * classes.astype(int)).clip(0, 255).astype(np.uint8)
    return np.stack([red, np.full_like(red, 100), np.full_like(red, 200)], axis=2)


def picture(height: int, width: int, seed: int = 0, void: float = 0.1) -> Picture:
    """Blocks of random classes, some of them void in the mask."""
    draw = np.random.default_rng((height, width, seed))
    blocks = (-(-height // 8), -(-width // 8))
    classes = draw.integers(0, len(CLASSES), blocks).repeat(8, 0).repeat(8, 1)[:height, :width]
    hidden = (draw.random(blocks) < void).repeat(8, 0).repeat(8, 1)[:height, :width]
    return shade(classes), np.where(hidden, IGNORE_INDEX, classes).astype(np.uint8)


def write(path: Path, train: Sequence[Picture], val: Sequence[Picture], classes: Sequence[str] = CLASSES) -> MaskSet:
    """A folder of these pictures, opened."""
    for split, pictures in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (path / kind / split).mkdir(parents=True)
        for i, (image, mask) in enumerate(pictures):
            Image.fromarray(image).save(path / "images" / split / f"{i:03d}.png")
            Image.fromarray(mask).save(path / "masks" / split / f"{i:03d}.png")
    (path / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    data: MaskSet = datasets.open_masks("cityscapes", path.parent, path)
    return data


def recipe_of(height: int = 16, width: int = 24, flip: float = 0.5, batch_size: int = 2, **more: Any) -> Recipe:
    image = {"kind": "scaled_crop", "height": height, "width": width, "flip": flip}
    image |= {name: more.pop(name) for name in ("scale", "scale_step") if name in more}
    fields = {"name": "tiny", "source": "a test", "task": "segmentation", "epochs": 2, "lr": 0.1}
    return Recipe.model_validate(fields | {"batch_size": batch_size, "image": image} | more)


def task_of(data: MaskSet, seed: int = 5, workers: int = 0, **recipe: Any) -> SegmentationTask:
    return SegmentationTask(data, recipe_of(**recipe), seed, workers)


class Reader(Network):
    """Predicts what `shade` wrote into the image, and notes the shapes that it was shown."""

    info = NetworkInfo(channels=())

    def __init__(self, data: MaskSet) -> None:
        super().__init__()
        self.num_classes = len(data.classes)
        self.mean, self.std = data.mean[0], data.std[0]
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor, targets: Any = None) -> Outputs:
        assert not self.training
        self.seen.append(tuple(x.shape))
        classes = ((x[:, 0] * self.std + self.mean) * 25.5).round().long()
        return Outputs(torch.nn.functional.one_hot(classes, self.num_classes).permute(0, 3, 1, 2).float(), ())


class Heads(Network):
    """A convolution of stride 4, and one of stride 8 as auxiliary head."""

    info = NetworkInfo(channels=())
    num_classes = len(CLASSES)

    def __init__(self, auxiliary: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.main = torch.nn.Conv2d(3, len(CLASSES), 4, stride=4)
            self.auxiliary = torch.nn.Conv2d(3, len(CLASSES), 8, stride=8) if auxiliary else None

    def forward(self, x: torch.Tensor, targets: Any = None) -> Outputs:
        extra = {} if self.auxiliary is None else {"aux_logits": self.auxiliary(x)}
        return Outputs(self.main(x), (), extra=extra)
