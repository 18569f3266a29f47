"""Object detection on COCO-format folders: augmentation, batches, task loss, COCO metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdbench import datasets
from kdbench.datasets.base import DataError
from kdbench.methods.base import Batch, NetworkInfo, Outputs, Setting

from ..networks.base import Detector, Network, Target
from ..spec.recipe import Recipe, Resize, UnfitRecipeError
from . import coco_eval, precision
from .base import DataFormat, Metric, Shapes, Task
from .loading import Loader, grouped, load
from .measurement import ByClass, Measurement
from .order import Key
from .shard import WHOLE, Shard

if TYPE_CHECKING:  # torchvision is slow to import, and tables need the metrics alone
    from torchvision.transforms import v2

    from kdbench.datasets.coco import CocoFolder, CocoSplit

MULTIPLE = 32  # inputs are padded at the right and bottom to a multiple of this


@dataclass(frozen=True)
class _Stored:
    """What the process needs to know of an image, beside its tensors: position, heights and widths, pixels."""

    index: int
    size: tuple[int, int]
    stored_size: tuple[int, int]


Sample = tuple[Tensor, Target, _Stored]


class DetectionTask(Task):
    """Detection on one COCO-format folder.

    Raises:
        SpecError: the batch is larger than the training set, or an image is so thin that nothing of it is left at the
            recipe's size.
    """

    name = "detection"
    metrics = (
        Metric("ap", "AP", 1),
        Metric("ap50", "AP50", 1),
        Metric("ap75", "AP75", 1),
        Metric("ap_small", "AP small", 1),
        Metric("ap_medium", "AP medium", 1),
        Metric("ap_large", "AP large", 1),
    )
    image_kinds = ("resize",)
    noise_budget = 0.2
    loss_memory = 1.5  # with losses and regions over without: 1.03 to 1.47, measured on eight detectors

    data: CocoFolder

    def __init__(self, data: CocoFolder, recipe: Recipe, data_seed: int, workers: int = 0) -> None:
        super().__init__(data, recipe, data_seed, workers)
        for split in (data.train, data.val):
            _check_shapes(recipe, split)
        self.image_size = _typical_size(data.val, recipe)

    @classmethod
    def open(cls, name: str, root: Path, path: Path | None = None, options: dict[str, Any] | None = None) -> CocoFolder:
        return datasets.open_coco(name, root, path, **options or {})

    @classmethod
    def recognizes(cls, path: Path) -> DataFormat | None:
        if str(path).startswith("detectron2:"):
            return DataFormat(cls.name, "a detection set of detectron2's catalog", "resize")
        from kdbench.datasets import coco

        description = coco.detect(path)
        return None if description is None else DataFormat(cls.name, description, "resize")

    @classmethod
    def _counts(cls, data: CocoFolder) -> tuple[int, int]:
        return data.train.counts.images, data.val.counts.images

    @classmethod
    def example_setting(cls, samples: int, classes: int) -> Setting:
        network = NetworkInfo(channels=(256, 256), strides=(8, 16))
        return Setting(cls.name, classes, samples, student=network, teacher=network, steps_per_epoch=10, epochs=10)

    @classmethod
    def input_size(cls, recipe: Recipe, stored: tuple[int, int]) -> tuple[int, int]:
        side = _padded(_resize(recipe).longer)
        return side, side  # a batch may hold an upright image and a lying one

    @classmethod
    def typical_size(cls, recipe: Recipe, stored: tuple[int, int]) -> tuple[int, int]:
        resize = _resize(recipe)
        return _padded(resize.shorter), _padded(resize.longer)  # as lying photographs have it

    @classmethod
    def example_targets(cls, shapes: Shapes) -> list[Target]:
        height, width = shapes.size
        target = {
            "boxes": torch.tensor([[0.0, 0.0, width / 2, height / 2]]).repeat(8, 1),
            "labels": torch.zeros(8, dtype=torch.int64),
            "size": torch.tensor(shapes.size),
        }
        return [target] * shapes.batch

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
        for images, targets, _ in self._loader.batches(groups, device):
            yield self._batch(images, targets)

    def outputs(self, network: Network, batch: Batch) -> Outputs:
        outputs: Outputs = network(batch.inputs, batch.targets)
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
        """See `Task`; a class's score is its AP."""
        val = self.data.val
        mine = self.detections(network, device, shard.share(range(len(val))))
        detections = [found for part in shard.gathered([mine]) for found in part]
        found = coco_eval.measure(val.annotation_file, [int(i) for i in val.image_ids], detections, reference)
        scores = tuple(found.class_aps[category] for category in self.data.category_ids)
        return Measurement(found.metrics, ByClass(scores, tuple(val.class_counts.tolist())))

    def evaluator(self, reference: bool) -> str:
        return coco_eval.name(reference)

    @torch.inference_mode()
    def detections(
        self, network: Network, device: torch.device, chosen: Sequence[int] | None = None
    ) -> list[coco_eval.Detection]:
        """All detections in validation images, in pixels of the images as stored.

        Args:
            network: to evaluate.
            device: of the network.
            chosen: positions in the validation set; None for all.
        """
        detector = cast(Detector, network).eval()
        samples = _Split(self.data.val, _transform(self.recipe, flip=0.0))
        positions = range(len(self.data.val)) if chosen is None else chosen
        groups = grouped([(i,) for i in positions], self.recipe.micro_batch_size)
        image_ids = self.data.val.image_ids
        detections: list[coco_eval.Detection] = []
        for images, targets, stored in load(samples, groups, self.workers, _collate, device):
            batch = self._batch(images, targets)
            sizes = [each.size for each in stored]
            results = detector.detect(batch.inputs, sizes)  # in float32, whatever precision the recipe trains in
            for result, each in zip(results, stored, strict=True):
                detections += self._as_coco(result, each, int(image_ids[each.index]))
        return detections

    @cached_property
    def _loader(self) -> Loader:
        """Of training images; its processes stay from epoch to epoch."""
        samples = _Split(self.data.train, _transform(self.recipe, flip=self.recipe.image.flip))
        return Loader(samples, self.workers, _collate)

    def _forward(self, network: Network, images: Tensor) -> object:
        return cast(Detector, network).detect(images, [self.image_size])

    def _batch(self, images: list[Tensor], targets: list[Target]) -> Batch:
        """uint8 images of several sizes as one normalized batch, padded with zeros as in the papers' code."""
        from torchvision.transforms.v2 import functional

        height = _padded(max(image.shape[1] for image in images))
        width = _padded(max(image.shape[2] for image in images))
        inputs = torch.zeros(len(images), 3, height, width, device=images[0].device)
        for padded, image in zip(inputs, images, strict=True):
            normalized = functional.normalize(image.float() / 255, list(self.data.mean), list(self.data.std))
            padded[:, : image.shape[1], : image.shape[2]] = normalized
        if self.recipe.channels_last:
            inputs = inputs.to(memory_format=torch.channels_last)
        return Batch(inputs, targets, torch.stack([target["index"] for target in targets]))

    def _as_coco(self, result: dict[str, Tensor], image: _Stored, image_id: int) -> list[coco_eval.Detection]:
        scale = torch.tensor(image.stored_size[::-1]).float() / torch.tensor(image.size[::-1]).float()
        boxes = result["boxes"].float().cpu() * scale.repeat(2)
        boxes[:, 2:] -= boxes[:, :2]
        labels = result["labels"].cpu().tolist()
        return [
            {"image_id": image_id, "category_id": self.data.category_ids[label], "bbox": box, "score": s}
            for box, s, label in zip(boxes.tolist(), result["scores"].float().cpu().tolist(), labels, strict=True)
        ]


class _Split(Dataset[Sample | DataError]):
    """One split as uint8 tensors; the draws of augmentation depend on the key alone, not on the worker."""

    def __init__(self, split: CocoSplit, transform: v2.Compose) -> None:
        self.split, self.transform = split, transform

    def __getitem__(self, key: Key) -> Sample | DataError:
        from torchvision import tv_tensors

        i = key[-1] % len(self.split)
        try:
            image, boxes, labels, _ = self.split.load(i)
        except DataError as error:
            return error
        pixels = tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        stored = (pixels.shape[1], pixels.shape[2])
        framed = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=stored)
        with torch.random.fork_rng(devices=[]):
            # The CPU's generator alone: `torch.manual_seed` also queues a call, with a stack trace, for an absent CUDA.
            seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1
            torch.default_generator.manual_seed(int(seed))
            pixels, framed = self.transform(pixels, framed)
        target = {
            "boxes": torch.Tensor(framed),
            "labels": torch.from_numpy(labels),
            "size": torch.tensor(pixels.shape[1:]),
            "stored_size": torch.tensor(stored),
            "index": torch.tensor(i),
        }
        size = (pixels.shape[1], pixels.shape[2])
        return torch.Tensor.as_subclass(pixels, Tensor), target, _Stored(i, size, stored)


def _resize(recipe: Recipe) -> Resize:
    """The image settings of a detection recipe, which are of no other kind."""
    assert isinstance(recipe.image, Resize)
    return recipe.image


def _transform(recipe: Recipe, flip: float) -> v2.Compose:
    from torchvision.transforms import v2

    image = _resize(recipe)
    shorter = [image.shorter] if image.shorter < image.longer else None  # None: bring the longer side to max_size
    resize = v2.Resize(shorter, max_size=image.longer, antialias=True)
    return v2.Compose([resize, v2.RandomHorizontalFlip(flip)])


def _collate(samples: list[Sample]) -> tuple[list[Tensor], list[Target], list[_Stored]]:
    images, targets, stored = zip(*samples, strict=True)
    return list(images), list(targets), list(stored)


def _padded(side: int) -> int:
    """The next multiple of `MULTIPLE`, pixels."""
    return -(-side // MULTIPLE) * MULTIPLE


def _check_shapes(recipe: Recipe, split: CocoSplit) -> None:
    """Reject an image whose shorter side is less than a pixel once the longer one is reduced.

    Raises:
        SpecError: names the image and its size.
    """
    longer = _resize(recipe).longer
    aspects = [-(-max(split.size(i)) // min(split.size(i))) for i in range(len(split))]
    for i, aspect in enumerate(aspects):
        if longer < aspect:
            width, height = split.size(i)
            raise UnfitRecipeError(
                recipe,
                f"{split.path(i)} is {width}x{height} pixels, and nothing is left of its shorter side when the longer "
                f"one is reduced to {longer}; cut the image into parts, remove it from {split.annotation_file.name}, "
                "or use",
                {"image.longer": max(aspects)},
            )


def _typical_size(split: CocoSplit, recipe: Recipe) -> tuple[int, int]:
    """Padded height and width of the split's first image, at which FLOPs are counted."""
    from torchvision import tv_tensors

    width, height = split.size(0)
    # By the transform itself, because its rounding decides at the border between two paddings.
    resized = _transform(recipe, flip=0.0)(tv_tensors.Image(torch.zeros(1, height, width, dtype=torch.uint8)))
    return _padded(resized.shape[1]), _padded(resized.shape[2])
