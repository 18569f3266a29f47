"""Image classification: batches from arrays on the device or from files, cross-entropy, top-1 and top-5."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import datasets
from kdbench.datasets.base import ArraySplit, FileSplit, ImageSet
from kdbench.methods.base import Batch, NetworkInfo, Outputs, Setting

from ..errors import SpecError
from ..networks.base import Network
from ..spec.recipe import PaddedCrop, Recipe, ResizedCrop, UnfitRecipeError
from ..spec.run import Data
from . import augment, precision
from .base import DataFormat, Metric, Shapes, Task
from .image_arrays import ArrayImages
from .image_files import FileImages
from .measurement import ByClass, Measurement, most_confused
from .shard import WHOLE, Shard

EVALUATED = 250  # images a batch when evaluating
SMALL = 32  # side of the images of a folder for recipes of small images, pixels: CIFAR's


class ClassificationTask(Task):
    """Classification on one image set: arrays, which are augmented on the device, or image files.

    Raises:
        SpecError: the recipe's augmentation does not fit the data or the batch, or the batch is larger than the
            training set.
    """

    name = "classification"
    metrics = (Metric("top1", "top-1 accuracy"), Metric("top5", "top-5 accuracy"))
    image_kinds = ("padded_crop", "resized_crop")
    noise_budget = 0.25

    @classmethod
    def chance(cls, data: Data) -> float:
        """See `Task`: two standard deviations above the accuracy of a class drawn at random for each image."""
        hit = 1 / data.classes
        return 100 * (hit + 2 * math.sqrt(hit * (1 - hit) / max(1, data.val_images))) if data.classes > 1 else 0.0

    data: ImageSet

    def __init__(self, data: ImageSet, recipe: Recipe, data_seed: int, workers: int = 0) -> None:
        self.images = _images(data, recipe, workers)
        super().__init__(data, recipe, data_seed, workers)
        self.train_targets = torch.from_numpy(data.train.labels)
        rounding = data.epoch_images if recipe.drop_last else data.epoch_images + self.batch_size - 1
        self.steps_per_epoch = recipe.epoch_steps or rounding // self.batch_size
        self.image_size = self.images.size

    @classmethod
    def open(cls, name: str, root: Path, path: Path | None = None, options: dict[str, Any] | None = None) -> ImageSet:
        return datasets.open_images(name, root, path, **options or {})

    @classmethod
    def recognizes(cls, path: Path) -> DataFormat | None:
        if path.is_dir():
            small = {"padded_crop": {"pixels": SMALL}}
            return DataFormat(cls.name, "a classification set of image files", "resized_crop", small)
        return DataFormat(cls.name, "a classification set of small images", "padded_crop") if path.exists() else None

    @classmethod
    def verify(cls, data: ImageSet, full: bool = False) -> None:
        """With `full`, decode every file; both ends of each were checked when the set was opened."""
        for split in (data.train, data.val):
            if full and isinstance(split, FileSplit):
                split.verify()

    @classmethod
    def _counts(cls, data: ImageSet) -> tuple[int, int]:
        return data.epoch_images, len(data.val)

    @classmethod
    def example_setting(cls, samples: int, classes: int) -> Setting:
        norms = tuple(torch.nn.BatchNorm2d(channels) for channels in (64, 128, 256))
        network = NetworkInfo((64, 64, 128, 256), (1, 1, 2, 4), 256, torch.nn.Linear(256, classes), norms)
        labels = torch.arange(samples) % classes
        length: dict[str, Any] = {"steps_per_epoch": 10, "epochs": 10, "batch_size": 64}
        return Setting(cls.name, classes, samples, network, network, labels, **length)

    @classmethod
    def input_size(cls, recipe: Recipe, stored: tuple[int, int]) -> tuple[int, int]:
        image = recipe.image
        return (image.size, image.size) if isinstance(image, ResizedCrop) else stored

    @classmethod
    def stored_size(cls, data: ImageSet) -> tuple[int, int]:
        if not isinstance(data.train, ArraySplit):
            return 0, 0
        return data.train.images.shape[1], data.train.images.shape[2]

    @classmethod
    def stored_bytes(cls, recipe: Recipe, data: Data, stored: tuple[int, int], kind: str) -> int:
        if not isinstance(recipe.image, PaddedCrop):
            return 0
        height, width = (side + 2 * recipe.image.padding for side in stored)
        size = 3 * height * width * data.train_images
        if kind == "cpu":
            size += 3 * math.prod(stored) * (data.train_images + data.val_images)
        return size

    @classmethod
    def evaluated_batches(cls, shapes: Shapes, val_images: int) -> float:
        return min(val_images, EVALUATED) / shapes.batch

    @classmethod
    def example_targets(cls, shapes: Shapes) -> Tensor:
        return torch.zeros(shapes.batch, dtype=torch.int64)

    def batches(
        self,
        epoch: int,
        device: torch.device,
        stream: str = "train",
        skip: int = 0,
        shard: Shard = WHOLE,
        views: Sequence[str] = (),
    ) -> Iterator[Batch]:
        batches = self.images.train_batches(self._epoch(epoch, stream), self.batch_size, device, skip, shard, views)
        for images, targets, index in batches:
            first, *others = (self._batch(view, targets, index) for view in images)
            yield replace(first, views=dict(zip(views, others, strict=True)))

    def _batch(self, images: Tensor, targets: Tensor, index: Tensor) -> Batch:
        inputs, resolution = self._in_layout(images), self.data.resolution
        if resolution is None:
            return Batch(inputs, targets, index)
        return Batch(augment.reduce_resolution(inputs, resolution), targets, index, full_inputs=inputs)

    def check_views(self, views: Sequence[str], method: str) -> None:
        """See `Task`."""
        if self.reads_files:
            super().check_views(views, method)

    @property
    def reads_files(self) -> bool:
        return isinstance(self.images, FileImages)

    def faster_loading(self) -> str:
        image = self.recipe.image
        slower = isinstance(image, ResizedCrop) and image.decoder == "pillow"
        return super().faster_loading() + ("; --set image.decoder=torchvision decodes faster" if slower else "")

    def outputs(self, network: Network, batch: Batch) -> Outputs:
        outputs: Outputs = network(batch.inputs)
        assert isinstance(outputs.logits, Tensor)
        with torch.autocast(batch.inputs.device.type, enabled=False):
            smoothing = self.recipe.label_smoothing
            loss = F.cross_entropy(outputs.logits.float(), batch.targets, label_smoothing=smoothing)
        outputs.losses = {"cross_entropy": loss}
        return outputs

    @precision.evaluation()
    @torch.inference_mode()
    def measure(
        self,
        network: Network,
        device: torch.device,
        reference: bool = True,
        full: bool = False,
        teacher: Tensor | None = None,
        shard: Shard = WHOLE,
    ) -> Measurement:
        """See `Task`; a class's score is the accuracy on its images."""
        found: list[tuple[Tensor, ...]] = []
        taught = iter(() if teacher is None else shard.share(teacher.to(device).split(EVALUATED)))
        for logits, labels in self._val_logits(network, device, full, shard):
            agreed = () if teacher is None else (_ranks(logits, next(taught)),)
            found.append((_ranks(logits, labels), logits.argmax(dim=1), labels, *agreed))
        batches = shard.gathered([tuple(values.cpu() for values in batch) for batch in found])
        ranks, predicted, targets, *agreements = (torch.cat(values) for values in zip(*batches, strict=True))
        return Measurement(
            self._accuracies("top1", "top5", ranks),
            _by_class(ranks <= 1, targets, predicted, len(self.classes)),
            predicted,
            self._accuracies("agreement", "agreement5", agreements[0]) if agreements else {},
        )

    def _val_logits(
        self, network: Network, device: torch.device, full: bool, shard: Shard
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [n, K] and labels [n] of a share of the validation images, EVALUATED at a time."""
        network.eval()
        resolution = None if full else self.data.resolution
        for images, labels in self.images.val_batches(EVALUATED, device, shard):
            inputs = self._in_layout(images)
            if resolution is not None:
                inputs = augment.reduce_resolution(inputs, resolution)
            # In float32 whatever the recipe: in bfloat16 the two best classes often round to one number.
            yield network(inputs).logits, labels

    def _accuracies(self, first: str, five: str, rank: Tensor) -> dict[str, float]:
        """Top-1 accuracy in percent; top-5 if K > 5."""
        metrics = {first: (rank <= 1).double().mean().item() * 100}
        if len(self.classes) > 5:
            metrics[five] = (rank <= 5).double().mean().item() * 100
        return metrics

    def evaluator(self, reference: bool) -> str:
        return f"torch {torch.__version__}"

    @property
    def _epoch_samples(self) -> int:
        whole = super()._epoch_samples
        return whole if self.recipe.epoch_steps else min(whole, self.data.epoch_images)

    def _in_layout(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout)


def _images(data: ImageSet, recipe: Recipe, workers: int) -> ArrayImages | FileImages:
    """The images of a data set under a recipe's augmentation.

    Raises:
        SpecError: the recipe's augmentation does not fit the data or the batch.
    """
    match data.train, data.val, recipe.image:
        case ArraySplit() as train, ArraySplit() as val, PaddedCrop() as image:
            return ArrayImages(train, val, image, (data.mean, data.std))
        case FileSplit() as train, FileSplit() as val, ResizedCrop() as image:
            if (image.mixup or image.cutmix) and recipe.batch_size % 2:
                even = math.lcm(2, recipe.accumulate)
                raise UnfitRecipeError(
                    recipe,
                    f"batch_size {recipe.batch_size} is odd, and image.mixup and image.cutmix mix the images of a "
                    "batch in pairs; make it even with",
                    {"batch_size": max(even, recipe.batch_size - recipe.batch_size % even)},
                )
            return FileImages(data, train, val, image, workers)
    kind = "padded_crop" if isinstance(data.train, ArraySplit) else "resized_crop"
    raise SpecError(
        f"recipe {recipe.name}: image.kind {recipe.image.kind} does not fit {data.path}, "
        f"which needs {kind}; choose a recipe for such data"
    )


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Rank of the class `labels` [N] among the logits [N, K], from 1: int64 [N].

    Ties and NaN count against the class: every logit that is not below the class's, its own included, adds 1.
    """
    return (~(logits < logits.gather(1, labels[:, None]))).sum(dim=1)


def _by_class(right: Tensor, labels: Tensor, predicted: Tensor, classes: int) -> ByClass:
    """Accuracy of each class, from whether each of N images is right [N], its label [N] and the predicted class [N]."""
    counts = torch.bincount(labels, minlength=classes).tolist()
    hits = torch.bincount(labels[right], minlength=classes).tolist()
    wrong = ~right & (predicted != labels)
    pairs, times = torch.unique(labels[wrong] * classes + predicted[wrong], return_counts=True)
    return ByClass(
        tuple(100 * hit / count if count else None for hit, count in zip(hits, counts, strict=True)),
        tuple(counts),
        most_confused(pairs, times, classes),
    )
