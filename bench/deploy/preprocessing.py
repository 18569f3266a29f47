"""How an image becomes a network's input: in words for a model card, and done, as evaluation does it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor

from kdbench.datasets import DataError

from ..errors import SpecError
from ..networks.base import MEAN, STD
from ..records.history import Record
from ..spec.recipe import PaddedCrop, Resize, ResizedCrop, ScaledCrop
from ..tasks import augment, image_files
from ..tasks.base import Task
from .plain import MULTIPLE
from .saved import SavedStudent

Channels = tuple[float, float, float]
CIFAR = ("cifar10", "cifar100")


class Prepared(NamedTuple):
    """An image [1, 3, H, W] as a network reads it, and the height and width of the image without padding."""

    image: Tensor
    size: tuple[int, int]


class Preprocessing(Record):
    """How images are prepared.

    Attributes:
        mean: subtracted from each channel, in 0..1.
        std: by which each channel is divided then.
        size: height and width of classifiers' inputs; of others, those that FLOPs are counted at.
        image: the recipe's, of which evaluation has its resizing and cropping.
        resolution: of a data set's variant: side to which the input is reduced, and enlarged again.
    """

    color_order: Literal["RGB"] = "RGB"
    layout: Literal["NCHW"] = "NCHW"
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: Channels
    std: Channels
    size: tuple[int, int]
    image: Annotated[Resize | PaddedCrop | ResizedCrop | ScaledCrop, Field(discriminator="kind")]
    resolution: int | None = None

    def steps(self) -> list[dict[str, Any]]:
        """What is done to an RGB image of 8 bits a channel, in order."""
        image, steps = self.image, []
        height, width = self.size
        if isinstance(image, PaddedCrop):
            steps.append({"step": "crop_to_aspect", "height": height, "width": width, "from": "center"})
            steps.append({"step": "resize", "height": height, "width": width, "interpolation": "bicubic"})
        elif isinstance(image, ResizedCrop):
            resize = {"step": "resize", "shorter_side": image.val_resize, "interpolation": image.interpolation}
            steps += [{**resize, "antialias": True}, {"step": "center_crop", "height": height, "width": width}]
        elif isinstance(image, Resize):
            sides = {"shorter_side": image.shorter, "longer_side_at_most": image.longer}
            steps.append({"step": "resize", **sides, "interpolation": "bilinear", "antialias": True})
        steps += [{"step": "divide", "by": 255.0}, {"step": "normalize", "mean": self.mean, "std": self.std}]
        if isinstance(image, Resize):
            steps.append({"step": "pad", "right_and_bottom_to_a_multiple_of": MULTIPLE, "value": 0.0})
        if self.resolution is not None:
            steps.append({"step": "reduce_and_enlarge", "side": self.resolution})
        return steps

    def check_size(self, width: int, height: int) -> None:
        """Refuse images of which nothing is left after resizing, or that take gigabytes then.

        Raises:
            DataError: the image is too thin.
        """
        image, (shorter, longer) = self.image, sorted((width, height))
        is_thin = False
        if isinstance(image, ResizedCrop):
            is_thin = image.val_resize**2 * longer > image_files.RESIZED * shorter
        elif isinstance(image, Resize):
            is_thin = image.longer * shorter < longer
        if is_thin:
            raise DataError(f"an image of {width}x{height} pixels is too thin; cut it into parts")

    def apply(self, image: Image.Image) -> Prepared:
        """An RGB image as the network reads it.

        Raises:
            DataError: as `check_size`.
        """
        self.check_size(*image.size)
        if isinstance(self.image, ResizedCrop):
            tensor = image_files.validation(cast(Any, self), self.image)(image)
            return Prepared(tensor[None], self.size)
        if isinstance(self.image, PaddedCrop):
            image = ImageOps.fit(image, self.size[::-1], Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if isinstance(self.image, Resize):
            pixels = self._resized(pixels, self.image)
        normalized = augment.normalize(pixels[None], self.mean, self.std)
        height, width = normalized.shape[-2:]
        if isinstance(self.image, Resize):
            normalized = torch.nn.functional.pad(normalized, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        if self.resolution is not None:
            normalized = augment.reduce_resolution(normalized, self.resolution)
        return Prepared(normalized, (height, width))

    def _resized(self, pixels: Tensor, resize: Resize) -> Tensor:
        from torchvision.transforms import v2

        shorter = [resize.shorter] if resize.shorter < resize.longer else None  # as the detection task does it
        resized: Tensor = v2.Resize(shorter, max_size=resize.longer, antialias=True)(pixels)
        return resized


def preprocessing(student: SavedStudent, task: Task | str) -> Preprocessing:
    """How the images of a student are prepared.

    Args:
        student: of a run.
        task: on the data of the run; or why that is not at hand: then the constants of known data sets are used.

    Raises:
        SpecError: the data is needed for its mean and deviation.
    """
    row = student.row
    assert row.cost is not None  # of a row that is done
    mean, std = (task.data.mean, task.data.std) if isinstance(task, Task) else _known(student, task)
    resolution = row.run.data.options.get("resolution")
    size = row.cost.image_size
    return Preprocessing(mean=mean, std=std, size=size, image=row.run.recipe.image, resolution=resolution)


def _known(student: SavedStudent, reason: str) -> tuple[Channels, Channels]:
    """Mean and deviation of a data set that is not at hand."""
    run = student.row.run
    if not isinstance(run.recipe.image, PaddedCrop):
        return MEAN, STD
    if run.data.name in CIFAR:
        from kdbench.datasets.cifar10 import CIFAR10
        from kdbench.datasets.cifar100 import CIFAR100

        constants = CIFAR10 if run.data.name == "cifar10" else CIFAR100
        return constants.mean, constants.std
    raise SpecError(f"images are normalized by the mean and deviation of the run's data, which is missing: {reason}")
