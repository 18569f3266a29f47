"""Semantic segmentation on images and masks: random crops, pixel cross-entropy, mIoU of whole images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from kdbench import datasets
from kdbench.datasets._decoded import VARIABLE as DECODED
from kdbench.datasets.base import CACHE_BYTES, IGNORE_INDEX, DataError, MaskSet, MaskSplit
from kdbench.methods.base import Batch, NetworkInfo, Outputs, Setting

from ..networks.base import Network
from ..spec.recipe import Recipe, ScaledCrop, UnfitRecipeError
from ..spec.run import Data
from . import augment, crops, precision
from .base import DataFormat, Metric, Shapes, Task
from .loading import Loader, grouped, load
from .measurement import ByClass, Measurement, most_confused
from .order import Key
from .shard import WHOLE, Shard

EVALUATED = 2**20  # pixels a batch when evaluating, or one image if that has more


class SegmentationTask(Task):
    """Segmentation on one set of images and masks.

    Raises:
        SpecError: the batch is larger than the training set, or the crop than one of its images.
    """

    name = "segmentation"
    metrics = (Metric("miou", "mIoU"), Metric("pixel_accuracy", "pixel accuracy"))
    image_kinds = ("scaled_crop",)
    noise_budget = 0.5

    @classmethod
    def chance(cls, data: Data) -> float:
        """See `Task`: a mask of one class throughout scores at most this."""
        return 100 / data.classes if data.classes > 1 else 0.0

    data: MaskSet

    def __init__(self, data: MaskSet, recipe: Recipe, data_seed: int, workers: int = 0) -> None:
        super().__init__(data, recipe, data_seed, workers)
        _check_crop_fits(recipe, data.train)
        self.image_size = (self._crop.height, self._crop.width)

    @classmethod
    def open(cls, name: str, root: Path, path: Path | None = None, options: dict[str, Any] | None = None) -> MaskSet:
        return datasets.open_masks(name, root, path, **options or {})

    @classmethod
    def recognizes(cls, path: Path) -> DataFormat | None:
        return DataFormat(cls.name, "a segmentation set", "scaled_crop") if (path / "masks").is_dir() else None

    @classmethod
    def verify(cls, data: MaskSet, full: bool = False) -> None:
        super().verify(data, full)
        data.check_classes()

    @classmethod
    def example_setting(cls, samples: int, classes: int) -> Setting:
        network = NetworkInfo(channels=(64, 64, 64, 128, 512, 64), strides=(2, 4, 8, 8, 8, 8))
        return Setting(cls.name, classes, samples, student=network, teacher=network, steps_per_epoch=10, epochs=10)

    @classmethod
    def input_size(cls, recipe: Recipe, stored: tuple[int, int]) -> tuple[int, int]:
        crop = _crop_of(recipe)
        return crop.height, crop.width

    @classmethod
    def evaluated_batches(cls, shapes: Shapes, val_images: int) -> float:
        return max(1.0, EVALUATED / (shapes.batch * shapes.height * shapes.width))

    @classmethod
    def example_targets(cls, shapes: Shapes) -> Tensor:
        return torch.zeros(shapes.batch, *shapes.size, dtype=torch.int64)

    @classmethod
    def example_losses(cls, outputs: Outputs, shapes: Shapes) -> list[Tensor]:
        logits = [outputs.logits, *(value for name, value in outputs.extra.items() if name == "aux_logits")]
        upsampled = [_upsampled(each.float(), shapes.size) for each in logits if isinstance(each, Tensor)]
        return [F.cross_entropy(each, cls.example_targets(shapes)) for each in upsampled]

    def batches(
        self,
        epoch: int,
        device: torch.device,
        stream: str = "train",
        skip: int = 0,
        shard: Shard = WHOLE,
        views: Sequence[str] = (),
    ) -> Iterator[Batch]:
        groups = [shard.of(keys) for keys in grouped(self._epoch(epoch, stream).keys(), self.batch_size)[skip:]]
        for images, masks, inside, index in self._loader.batches(groups, device):
            yield Batch(self._normalized(images, inside), masks.to(torch.int64), index)

    def outputs(self, network: Network, batch: Batch) -> Outputs:
        outputs: Outputs = network(batch.inputs)
        outputs.losses = {"cross_entropy": self._cross_entropy(outputs.logits, batch.targets)}
        if "aux_logits" in outputs.extra and self.recipe.aux_weight:
            loss = self._cross_entropy(outputs.extra["aux_logits"], batch.targets)
            outputs.losses["aux_cross_entropy"] = self.recipe.aux_weight * loss
        return outputs

    @precision.evaluation()
    def measure(
        self,
        network: Network,
        device: torch.device,
        reference: bool = True,
        full: bool = False,
        teacher: Tensor | None = None,
        shard: Shard = WHOLE,
    ) -> Measurement:
        """See `Task`; a class's score is its IoU."""
        from torchmetrics.classification import MulticlassConfusionMatrix

        confusion = MulticlassConfusionMatrix(len(self.classes), ignore_index=IGNORE_INDEX, validate_args=False)
        confusion.to(device)
        mine = shard.share(range(len(self.data.val)))
        for _, truth, predicted in self.predictions(network, device, mine):
            confusion.update(predicted, truth)
        counts = torch.stack(shard.gathered([confusion.compute().cpu()])).sum(0)
        metrics = scores(counts.tolist(), self.classes)
        return Measurement(metrics, _by_class(counts, metrics, self.classes))

    def evaluator(self, reference: bool) -> str:
        return f"torchmetrics {version('torchmetrics')}"

    @torch.inference_mode()
    def predictions(
        self, network: Network, device: torch.device, chosen: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Position, truth and predicted classes of validation images, int64 [H, W] at the size of the image.

        Args:
            network: to evaluate.
            device: of the network.
            chosen: positions in the validation set; None for all.
        """
        network.eval()
        groups: list[list[Key]] = []
        for (width, height), positions in self._by_size(range(len(self.data.val)) if chosen is None else chosen):
            groups += grouped([(i,) for i in positions], max(1, EVALUATED // (width * height)))
        for images, masks, index in load(_Pairs(self.data.val, None), groups, self.workers, device=device):
            # In float32 whatever the recipe: in bfloat16 the two best classes often round to one number.
            logits = network(self._normalized(images)).logits
            assert isinstance(logits, Tensor)
            predicted = _upsampled(logits.float(), masks.shape[-2:]).max(1).indices  # several times faster than argmax
            yield from zip(index.tolist(), masks.to(torch.int64), predicted, strict=True)

    @cached_property
    def _loader(self) -> Loader:
        """Of training images; its processes stay from epoch to epoch."""
        return Loader(_Pairs(self.data.train, self._crop), self.workers)

    def _by_size(self, positions: Sequence[int]) -> list[tuple[tuple[int, int], list[int]]]:
        """Positions in the validation set by width and height."""
        sizes: dict[tuple[int, int], list[int]] = {}
        for i in positions:
            sizes.setdefault(self.data.val.size(i), []).append(i)
        return list(sizes.items())

    def faster_loading(self) -> str:
        size = sum(4 * int(split.sizes.prod(axis=1).sum()) for split in (self.data.train, self.data.val))
        if size <= CACHE_BYTES or os.environ.get(DECODED):
            return super().faster_loading()
        kept = f"{DECODED}=FOLDER keeps images there once they are decoded ({size / 1e9:.1f} GB)"
        return f"{super().faster_loading()}; {kept}"

    @property
    def _crop(self) -> ScaledCrop:
        return _crop_of(self.recipe)

    def _cross_entropy(self, logits: Tensor | tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Mean over the pixels that are not ignored, at the masks' resolution; 0 if all are."""
        assert isinstance(logits, Tensor)
        with torch.autocast(logits.device.type, enabled=False):
            logits = _upsampled(logits.float(), targets.shape[-2:])
            total = F.cross_entropy(
                logits,
                targets,
                ignore_index=IGNORE_INDEX,
                reduction="sum",
                label_smoothing=self.recipe.label_smoothing,
            )
            return torch.div(total, (targets != IGNORE_INDEX).sum().clamp(min=1))

    def _normalized(self, images: Tensor, inside: Tensor | None = None) -> Tensor:
        """uint8 [N, 3, H, W] -> normalized float32, 0 in padding, where `inside` [N, 1, H, W] is False."""
        normalized = augment.normalize(images, self.data.mean, self.data.std)
        if inside is not None:
            normalized *= inside
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return normalized.contiguous(memory_format=layout)


def scores(confusion: list[list[int]], classes: tuple[str, ...]) -> dict[str, float]:
    """Metrics in percent from pixel counts by true and predicted class, [K, K].

    A class without pixels in truth and prediction has no IoU and is left out of the mean, as in Cityscapes' evaluator
    (cityscapesscripts, `evalPixelLevelSemanticLabeling.py`); a class that is only predicted has 0.
    """
    ious = {}
    for i, name in enumerate(classes):
        union = sum(confusion[i]) + sum(row[i] for row in confusion) - confusion[i][i]
        if union:
            ious[name] = 100 * confusion[i][i] / union
    if not ious:
        return {}
    accuracy = 100 * sum(row[i] for i, row in enumerate(confusion)) / sum(map(sum, confusion))
    means = {"miou": sum(ious.values()) / len(ious), "pixel_accuracy": accuracy}
    return means | {f"iou/{name}": value for name, value in ious.items()}


def _by_class(confusion: Tensor, metrics: Mapping[str, float], classes: tuple[str, ...]) -> ByClass:
    """IoU of each class, as `scores` has it, from pixel counts by true and predicted class [K, K]."""
    wrong = (confusion - confusion.diag().diag()).flatten()
    pairs = wrong.nonzero()[:, 0]
    ious = tuple(metrics.get(f"iou/{name}") for name in classes)
    return ByClass(ious, tuple(confusion.sum(1).tolist()), most_confused(pairs, wrong[pairs], len(classes)))


class _Pairs(Dataset[tuple[Tensor | int, ...] | DataError]):
    """Image [3, H, W] and mask [H, W] in uint8 and position; of crops also where they are not padding, [1, H, W].

    The draws of a crop depend on the key alone, not on the worker.
    """

    def __init__(self, split: MaskSplit, crop: ScaledCrop | None) -> None:
        self.split, self.crop = split, crop

    def __getitem__(self, key: Key) -> tuple[Tensor | int, ...] | DataError:
        i = key[-1] % len(self.split)
        try:
            pixels, classes = self.split.load(i)
        except DataError as error:
            return error
        if self.crop is None:
            return torch.tensor(pixels).permute(2, 0, 1), torch.tensor(classes), i
        return *crops.scaled_crop(pixels, classes, self.crop, np.random.default_rng(key)), i


def _upsampled(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Logits [N, K, h, w] at the size of the masks."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=True)


def _crop_of(recipe: Recipe) -> ScaledCrop:
    """The image settings of a segmentation recipe, which are of no other kind."""
    assert isinstance(recipe.image, ScaledCrop)
    return recipe.image


def _check_crop_fits(recipe: Recipe, split: MaskSplit) -> None:
    """Reject a crop that an image does not fill at scale 1: padding is only for scales below 1.

    Raises:
        SpecError: names the recipe, the sizes and the image.
    """
    crop = _crop_of(recipe)
    least_width, least_height = split.sizes.min(axis=0).tolist()
    for i in range(len(split)):
        width, height = split.size(i)
        if crop.height > height or crop.width > width:
            raise UnfitRecipeError(
                recipe,
                f"the crop of image.height {crop.height} and image.width {crop.width} is larger than "
                f"{split.images[i]}, which is {height} high and {width} wide; lower it with",
                {"image.height": min(crop.height, least_height), "image.width": min(crop.width, least_width)},
            )
