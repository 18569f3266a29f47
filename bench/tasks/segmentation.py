"""Semantic segmentation on images and masks: random crops, pixel cross-entropy, mIoU of whole images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from kdbench.datasets.base import VOID, DataError, MaskSet, MaskSplit
from kdbench.methods.base import Batch, Outputs

from ..errors import SpecError
from ..networks.base import Network
from ..spec.recipe import Recipe, ScaledCrop
from . import augment, crops
from .base import Task, refuse_large_batch
from .loading import grouped, load
from .order import Key

EVALUATED = 2**20  # pixels a batch when evaluating, or one image if that has more


class SegmentationTask(Task):
    """Segmentation on one set of images and masks.

    Args:
        data: the set.
        recipe: batch size, crop, and the weight of the auxiliary head.
        data_seed: of the data order and the augmentation.
        workers: loader processes; the batches do not depend on it.

    Raises:
        SpecError: the batch is larger than the training set, or the crop than one of its images.
    """

    headline = "miou"

    def __init__(self, data: MaskSet, recipe: Recipe, data_seed: int, workers: int = 0) -> None:
        self.data, self.recipe, self.data_seed, self.workers = data, recipe, data_seed, workers
        self.classes = data.classes
        self.num_samples = len(data.train)
        self.batch_size = recipe.batch_size
        refuse_large_batch(recipe, self.num_samples, data.path)
        _refuse_large_crop(recipe, data.train)
        self.steps_per_epoch = recipe.epoch_steps or self.num_samples // self.batch_size
        self.image_size = (self._crop.height, self._crop.width)

    def batches(self, epoch: int, device: torch.device, stream: str = "train", skip: int = 0) -> Iterator[Batch]:
        samples = _Pairs(self.data.train, self._crop)
        groups = grouped(self._keys(epoch, stream), self.batch_size)[skip:]
        for images, masks, inside, index in load(samples, groups, self.workers):
            inputs = self._finished(images, device, inside)
            yield Batch(inputs, masks.to(device, torch.int64), index.to(device))

    def outputs(self, network: Network, batch: Batch) -> Outputs:
        outputs: Outputs = network(batch.inputs)
        outputs.losses = {"cross_entropy": self._cross_entropy(outputs.logits, batch.targets)}
        if "aux_logits" in outputs.extra and self.recipe.aux_weight:
            loss = self._cross_entropy(outputs.extra["aux_logits"], batch.targets)
            outputs.losses["aux_cross_entropy"] = self.recipe.aux_weight * loss
        return outputs

    def evaluate(self, network: Network, device: torch.device, reference: bool, full: bool = False) -> dict[str, float]:
        from torchmetrics.classification import MulticlassConfusionMatrix

        confusion = MulticlassConfusionMatrix(len(self.classes), ignore_index=VOID, validate_args=False).to(device)
        for _, truth, found in self.predictions(network, device):
            confusion.update(found, truth)
        return scores(confusion.compute().tolist(), self.classes)

    def evaluator(self, reference: bool) -> str:
        return f"torchmetrics {version('torchmetrics')}"

    @torch.inference_mode()
    def predictions(
        self, network: Network, device: torch.device, chosen: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Position, truth and predicted class of validation images, each once, int64 [H, W] at their own size.

        Args:
            network: what predicts.
            device: where.
            chosen: positions in the validation set; all of them where there are none.
        """
        network.eval()
        groups: list[list[Key]] = []
        for (width, height), positions in self._by_size(range(len(self.data.val)) if chosen is None else chosen):
            groups += grouped([(i,) for i in positions], max(1, EVALUATED // (width * height)))
        for images, masks, index in load(_Pairs(self.data.val, None), groups, self.workers):
            # In float32 whatever the recipe: in bfloat16 the two best classes often round to one number.
            logits = network(self._finished(images, device)).logits
            assert isinstance(logits, Tensor)
            found = _upsampled(logits.float(), masks.shape[-2:]).max(1).indices  # several times faster than argmax
            yield from zip(index.tolist(), masks.to(device, torch.int64), found, strict=True)

    def _by_size(self, positions: Sequence[int]) -> list[tuple[tuple[int, int], list[int]]]:
        """Positions in the validation set by width and height."""
        sizes: dict[tuple[int, int], list[int]] = {}
        for i in positions:
            sizes.setdefault(self.data.val.size(i), []).append(i)
        return list(sizes.items())

    @property
    def _crop(self) -> ScaledCrop:
        assert isinstance(self.recipe.image, ScaledCrop)  # a segmentation recipe has no other
        return self.recipe.image

    def _cross_entropy(self, logits: Tensor | tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Mean over the pixels that count, at the masks' resolution; 0 where none does."""
        assert isinstance(logits, Tensor)
        with torch.autocast(logits.device.type, enabled=False):
            logits = _upsampled(logits.float(), targets.shape[-2:])
            smoothing = self.recipe.label_smoothing
            total = F.cross_entropy(logits, targets, ignore_index=VOID, reduction="sum", label_smoothing=smoothing)
            return torch.div(total, (targets != VOID).sum().clamp(min=1))

    def _finished(self, images: Tensor, device: torch.device, inside: Tensor | None = None) -> Tensor:
        """uint8 [N, 3, H, W] -> normalised float32, zero where `inside` [N, 1, H, W] says that nothing is."""
        normalised = augment.normalise(images.to(device), self.data.mean, self.data.std)
        if inside is not None:
            normalised *= inside.to(device)
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return normalised.contiguous(memory_format=layout)


def scores(confusion: list[list[int]], classes: tuple[str, ...]) -> dict[str, float]:
    """Metrics in percent of pixel counts by true and predicted class, [K, K].

    A class that no pixel has, in truth or prediction, has no IoU and is left out of the mean, as in Cityscapes' own
    evaluator (cityscapesscripts, `evalPixelLevelSemanticLabeling.py`); one that is only predicted has 0.
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


class _Pairs(Dataset[tuple[Tensor | int, ...] | DataError]):
    """Image [3, H, W] and mask [H, W] in uint8, and position; crops in between say where they are no padding.

    What a crop draws depends on the key alone, not on the worker.
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


def _upsampled(logits: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=True)


def _refuse_large_crop(recipe: Recipe, split: MaskSplit) -> None:
    """Padding is for what a scale below 1 leaves. A crop that an image cannot fill as it is was made for other data.

    Raises:
        SpecError: names the recipe, the sizes and the image.
    """
    crop = recipe.image
    assert isinstance(crop, ScaledCrop)
    for i in range(len(split)):
        width, height = split.size(i)
        if crop.height > height or crop.width > width:
            raise SpecError(
                f"recipe {recipe.name}: the crop of image.height {crop.height} and image.width {crop.width} is larger "
                f"than {split.images[i]}, which is {height} high and {width} wide; lower it with "
                f"--set image.height={min(crop.height, height)} --set image.width={min(crop.width, width)}"
            )
